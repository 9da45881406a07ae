// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Source ipc. Best from what the kernel itself asks: ipcperms says whether a task may access an object, and
 * ipcctl_obtain_check whether it owns it. Not from lsm/ipc_permission, which is within ipcperms and not reached where the
 * object's mode denies. On tracepoints alone from the System V calls and what they return: the object is looked up in the
 * caller's ipc namespace when the call begins, for it may be gone when the call returns.
 */
#include "syscall_abi.bpf.h"
#include "ipc.h"

/* Threads in such a call. Those that never return are pushed out in time. */
#define THREADS 8192

/* On x86-64. */
enum call {
	NR_SHMGET = 29,
	NR_SHMAT = 30,
	NR_SHMCTL = 31,
	NR_SEMGET = 64,
	NR_SEMOP = 65,
	NR_SEMCTL = 66,
	NR_MSGGET = 68,
	NR_MSGSND = 69,
	NR_MSGRCV = 70,
	NR_MSGCTL = 71,
	NR_SEMTIMEDOP = 220,
};

#define IPC_RMID 0
#define IPC_SET 1
#define IPC_INFO 3
#define SEM_SETVAL 16
#define SEM_SETALL 17
#define SHM_LOCK 11
#define SHM_UNLOCK 12
/* SHM_STAT, MSG_STAT, SEM_STAT and what follows look at all objects. */
#define FIRST_SHM_INFO 13
#define FIRST_MSG_INFO 11
#define FIRST_SEM_INFO 18
#define SHM_RDONLY 010000

#define MAY_READ 4
#define MAY_WRITE 2

#define EPERM 1
#define EACCES 13

/* An id's lower bits are its place in the table: more of them where the kernel was started with ipcmni_extend. */
#define PLACE_MASK 0x7fff
#define EXTENDED_PLACE_MASK 0xffffff

/* The kernel's radix tree: 64 slots a node, so that this depth holds all places. */
#define NODE_SLOTS 64
#define TREE_DEPTH 4

struct begun {
	__u32 call;
	__u32 object;
	__s32 key;
	__s32 id;
	__u32 permission;
	__u32 known;
	__u32 by_key;
	__s32 in_use; /* objects of the kind before the call */
	__u32 owners[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, THREADS);
	__type(key, __u32);
	__type(value, struct begun);
} begun SEC(".maps");

/* The table of a kind, in the order of the kernel: semaphores, messages, shared memory. */
static __always_inline struct ipc_ids *table_of(struct task_struct *task, __u32 object)
{
	struct ipc_namespace *ns = BPF_CORE_READ(task, nsproxy, ipc_ns);
	__u32 place = object == IPC_SHM ? 2 : object == IPC_MSG ? 1 : 0;
	return (void *)ns + bpf_core_field_offset(struct ipc_namespace, ids) + place * bpf_core_type_size(struct ipc_ids);
}

/* How many objects of a kind there are. */
static __always_inline __s32 objects(struct task_struct *task, __u32 object)
{
	struct ipc_ids *table = table_of(task, object);
	return BPF_CORE_READ(table, in_use);
}

static __always_inline struct kern_ipc_perm *at_place(struct ipc_ids *table, __u32 place)
{
	void *entry = BPF_CORE_READ(table, ipcs_idr.idr_rt.xa_head);

	for (int depth = 0; depth < TREE_DEPTH; depth++) {
		if (((__u64)entry & 3) != 2) /* not an inner node */
			break;
		struct xa_node *node = entry - 2;
		__u32 slot = (place >> BPF_CORE_READ(node, shift)) & (NODE_SLOTS - 1);
		void **slots = (void *)node + bpf_core_field_offset(struct xa_node, slots);
		bpf_probe_read_kernel(&entry, sizeof(entry), slots + slot);
	}
	return ((__u64)entry & 3) ? NULL : entry;
}

/* The object with this id. */
static __always_inline struct kern_ipc_perm *find(struct ipc_ids *table, __s32 id)
{
	struct kern_ipc_perm *perm = at_place(table, id & PLACE_MASK);

	if (!perm || BPF_CORE_READ(perm, id) != id)
		perm = at_place(table, id & EXTENDED_PLACE_MASK);
	return perm && BPF_CORE_READ(perm, id) == id ? perm : NULL;
}

/* The table that an object's address in the namespace tells. */
static __always_inline __u32 object_of(struct ipc_namespace *ns, struct ipc_ids *table)
{
	__u64 place = (void *)table - (void *)ns - bpf_core_field_offset(struct ipc_namespace, ids);
	__u64 size = bpf_core_type_size(struct ipc_ids);
	return place >= 2 * size ? IPC_SHM : place >= size ? IPC_MSG : IPC_SEM;
}

static __always_inline void fill_owners(struct begun *now, struct kern_ipc_perm *perm)
{
	now->known = true;
	now->id = BPF_CORE_READ(perm, id);
	now->key = BPF_CORE_READ(perm, key);
	now->owners[0] = BPF_CORE_READ(perm, uid.val);
	now->owners[1] = BPF_CORE_READ(perm, gid.val);
	now->owners[2] = BPF_CORE_READ(perm, cuid.val);
	now->owners[3] = BPF_CORE_READ(perm, cgid.val);
}

static __always_inline bool look_up(struct task_struct *task, struct begun *now)
{
	struct kern_ipc_perm *perm = find(table_of(task, now->object), now->id);

	if (perm)
		fill_owners(now, perm);
	return perm;
}

static __always_inline void send_access(struct task_struct *task, struct begun *now, bool denied)
{
	struct ipc_record record = {};

	fill_task(&record.header.task, task);
	record.object = now->object;
	record.key = now->key;
	record.id = now->id;
	record.permission = now->permission;
	record.known = now->known;
	record.uid = now->owners[0];
	record.gid = now->owners[1];
	record.creator_uid = now->owners[2];
	record.creator_gid = now->owners[3];
	record.denied = denied;
	send(&record.header.start, RECORD_IPC_ACCESS, sizeof(record));
}

/* What the kernel checks for read, write and execute of the owner, the group and others, as one of them. */
static __always_inline __u32 asked(__u64 flags)
{
	return (flags >> 6 | flags >> 3 | flags) & (MAY_READ | MAY_WRITE);
}

/* What a control command needs; 0 where only the owner may give it. */
static __always_inline __u32 asked_by_ctl(long number, __u64 command)
{
	if (command == IPC_RMID || command == IPC_SET)
		return 0;
	if (number == NR_SHMCTL && (command == SHM_LOCK || command == SHM_UNLOCK))
		return 0;
	return number == NR_SEMCTL && (command == SEM_SETVAL || command == SEM_SETALL) ? MAY_WRITE : MAY_READ;
}

static __always_inline int on_enter(long number, __u64 arg0, __u64 arg1, __u64 arg2)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct begun now = { .call = number, .id = arg0 };
	__u32 tid = bpf_get_current_pid_tgid();
	__u64 command;

	switch (number) {
	case NR_SHMGET:
	case NR_SEMGET:
		now.permission = asked(arg2);
		now.by_key = true;
		break;
	case NR_MSGGET:
		now.permission = asked(arg1);
		now.by_key = true;
		break;
	case NR_SHMAT:
		now.permission = arg2 & SHM_RDONLY ? MAY_READ : MAY_READ | MAY_WRITE;
		break;
	case NR_MSGSND:
	case NR_SEMOP:
	case NR_SEMTIMEDOP:
		now.permission = MAY_WRITE;
		break;
	case NR_MSGRCV:
		now.permission = MAY_READ;
		break;
	case NR_SEMCTL:
	case NR_SHMCTL:
	case NR_MSGCTL:
		command = number == NR_SEMCTL ? arg2 : arg1;
		if (command == IPC_INFO || command >= (number == NR_SEMCTL   ? FIRST_SEM_INFO :
						       number == NR_SHMCTL ? FIRST_SHM_INFO :
									     FIRST_MSG_INFO))
			return 0;
		now.permission = asked_by_ctl(number, command);
		break;
	default:
		return 0;
	}
	if (!wanted(RECORD_IPC_ACCESS) || narrowed_out(task) || abi_of(task, &number) == ABI_COMPAT)
		return 0;
	now.object = number <= NR_SHMCTL ? IPC_SHM : number >= NR_MSGGET && number <= NR_MSGCTL ? IPC_MSG : IPC_SEM;
	if (now.by_key) {
		now.key = arg0;
		if (!now.key)
			return 0; /* A private object is always made anew. */
		now.in_use = objects(task, now.object);
	} else if (!look_up(task, &now)) {
		return 0; /* There is no such object, so nothing is accessed. */
	}
	bpf_map_update_elem(&begun, &tid, &now, BPF_ANY);
	return 0;
}

static __always_inline int on_return(long value)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 tid = bpf_get_current_pid_tgid();
	struct begun *found = bpf_map_lookup_elem(&begun, &tid), now;

	if (!found)
		return 0;
	now = *found;
	bpf_map_delete_elem(&begun, &tid);
	bool denied = value == -EACCES || value == -EPERM;
	if (now.by_key && !denied) {
		now.id = value;
		/* An object more than before was made by this call. */
		if (value < 0 || objects(task, now.object) > now.in_use || !look_up(task, &now))
			return 0;
	}
	send_access(task, &now, denied);
	return 0;
}

/* ipcperms has decided: the one place where the kernel asks whether an object may be accessed. */
static __always_inline int on_perms(struct ipc_namespace *ns, struct kern_ipc_perm *perm, short flags, int denied)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct begun now = { .permission = asked(flags) };

	if (!wanted(RECORD_IPC_ACCESS) || narrowed_out(task))
		return 0;
	fill_owners(&now, perm);
	/* Which kind it is says the table that has it. */
	for (__u32 object = IPC_SHM; object <= IPC_SEM; object++) {
		if (find(table_of(task, object), now.id) == perm)
			now.object = object;
	}
	send_access(task, &now, denied);
	return 0;
}

/* ipcctl_obtain_check has decided whether the caller is the owner. */
static __always_inline int on_owner(struct ipc_namespace *ns, struct ipc_ids *table, __s32 id, __s64 result)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct begun now = { .id = id };
	struct kern_ipc_perm *perm;

	/* Another error: there is no such object, so nothing is accessed. */
	if (result < 0 && result >= -MAX_ERRNO && result != -EPERM)
		return 0;
	if (!wanted(RECORD_IPC_ACCESS) || narrowed_out(task))
		return 0;
	perm = find(table, id);
	if (perm)
		fill_owners(&now, perm);
	now.object = object_of(ns, table);
	send_access(task, &now, result == -EPERM);
	return 0;
}

SEC("fexit/ipcperms")
int BPF_PROG(perms_exit, struct ipc_namespace *ns, struct kern_ipc_perm *perm, short flags, int result)
{
	return on_perms(ns, perm, flags, result != 0);
}

SEC("fexit/ipcctl_obtain_check")
int BPF_PROG(owner_exit, struct ipc_namespace *ns, struct ipc_ids *table, int id, int command, void *set, int more,
	     struct kern_ipc_perm *result)
{
	return on_owner(ns, table, id, (__s64)result);
}

struct asked_args {
	struct ipc_namespace *ns;
	void *what; /* a kern_ipc_perm, or an ipc_ids */
	__s64 number; /* flags, or an id */
};

/* Threads that the kernel is just deciding about, for kretprobes, which know no arguments. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, THREADS);
	__type(key, __u32);
	__type(value, struct asked_args);
} asking SEC(".maps");

static __always_inline int on_asked(struct ipc_namespace *ns, void *what, __s64 number)
{
	struct asked_args args = { .ns = ns, .what = what, .number = number };
	__u32 tid = bpf_get_current_pid_tgid();

	bpf_map_update_elem(&asking, &tid, &args, BPF_ANY);
	return 0;
}

SEC("kprobe/ipcperms")
int BPF_KPROBE(perms_kprobe, struct ipc_namespace *ns, struct kern_ipc_perm *perm, short flags)
{
	return on_asked(ns, perm, flags);
}

SEC("kretprobe/ipcperms")
int BPF_KRETPROBE(perms_kretprobe, int result)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct asked_args *args = bpf_map_lookup_elem(&asking, &tid);

	return args ? on_perms(args->ns, args->what, args->number, result != 0) : 0;
}

SEC("kprobe/ipcctl_obtain_check")
int BPF_KPROBE(owner_kprobe, struct ipc_namespace *ns, struct ipc_ids *table, int id)
{
	return on_asked(ns, table, id);
}

SEC("kretprobe/ipcctl_obtain_check")
int BPF_KRETPROBE(owner_kretprobe, long result)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct asked_args *args = bpf_map_lookup_elem(&asking, &tid);

	return args ? on_owner(args->ns, args->what, args->number, result) : 0;
}

static __always_inline int on_enter_regs(struct pt_regs *regs, long number)
{
	return on_enter(number, PT_REGS_PARM1_CORE_SYSCALL(regs), PT_REGS_PARM2_CORE_SYSCALL(regs),
			PT_REGS_PARM3_CORE_SYSCALL(regs));
}

SEC("tp_btf/sys_enter")
int BPF_PROG(enter_btf, struct pt_regs *regs, long number)
{
	return on_enter_regs(regs, number);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(return_btf, struct pt_regs *regs, long value)
{
	return on_return(value);
}

SEC("raw_tp/sys_enter")
int BPF_PROG(enter_raw, struct pt_regs *regs, long number)
{
	return on_enter_regs(regs, number);
}

SEC("raw_tp/sys_exit")
int BPF_PROG(return_raw, struct pt_regs *regs, long value)
{
	return on_return(value);
}

SEC("tp/raw_syscalls/sys_enter")
int enter_tp(struct trace_event_raw_sys_enter *event)
{
	return on_enter(event->id, event->args[0], event->args[1], event->args[2]);
}

SEC("tp/raw_syscalls/sys_exit")
int return_tp(struct trace_event_raw_sys_exit *event)
{
	return on_return(event->ret);
}
