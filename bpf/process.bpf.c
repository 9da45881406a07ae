// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Source process: programs executed, processes ended, processes forked. */
#include "eunomia.bpf.h"
#include "process.h"

/* All that can stand behind the fixed part. */
#define TAIL_BYTES (3 * PATH_BYTES + 2 * NAME_BYTES + ARGS_BYTES)

#include "path.bpf.h"

#define SIGNAL_GROUP_EXIT 0x00000004
#define CLONE_THREAD 0x00010000

/* Where a record is built. */
struct scratch {
	struct exec_record record;
	struct tail tail;
	__u64 busy;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

struct process_key {
	__u64 start_time;
	__u64 pid;
};

/* Processes of several threads whose exit has been reported: two last threads can both find no other alive. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct process_key);
	__type(value, __u8);
} exited SEC(".maps");

static __always_inline void append_args(struct scratch *scratch, struct task_struct *task)
{
	struct exec_record *record = &scratch->record;
	struct tail *tail = &scratch->tail;
	unsigned long start = BPF_CORE_READ(task, mm, arg_start);
	unsigned long length = BPF_CORE_READ(task, mm, arg_end) - start;
	__u64 used = tail->used;

	if (length > ARGS_BYTES - 1) {
		length = ARGS_BYTES - 1;
		record->flags |= EXEC_ARGS_CUT;
	}
	if (used > TAIL_BYTES - ARGS_BYTES)
		return;
	if (bpf_probe_read_user(tail->bytes + used, length & (ARGS_BYTES - 1), (void *)start) == 0) {
		record->args_length = length;
		tail->used = used + length;
	} else {
		record->flags |= EXEC_ARGS_CUT;
	}
}

static __always_inline int on_exec(struct task_struct *task, const char *filename)
{
	__u32 zero = 0;
	if (!wanted(RECORD_EXEC) || narrowed_out(task))
		return 0;
	struct scratch *scratch = bpf_map_lookup_elem(&scratches, &zero);
	if (!scratch)
		return 0;
	if (scratch->busy) {
		count_nested(RECORD_EXEC);
		return 0;
	}
	scratch->busy = 1;

	struct exec_record *record = &scratch->record;
	struct tail *tail = &scratch->tail;
	__builtin_memset(record, 0, sizeof(*record));
	fill_task(&record->header.task, task);
	bpf_probe_read_kernel(&record->capabilities, sizeof(record->capabilities),
			      (void *)BPF_CORE_READ(task, cred) + bpf_core_field_offset(struct cred, cap_effective));
	record->login_uid = (__u32)-1;
	if (bpf_core_field_exists(task->loginuid))
		record->login_uid = BPF_CORE_READ(task, loginuid.val);
	struct tty_struct *tty = BPF_CORE_READ(task, signal, tty);
	if (tty)
		bpf_probe_read_kernel_str(record->tty, sizeof(record->tty), (void *)tty + bpf_core_field_offset(struct tty_struct, name));
	BPF_CORE_READ_STR_INTO(&record->parent_comm, task, real_parent, group_leader, comm);

	long length = bpf_probe_read_kernel_str(tail->bytes, PATH_BYTES, filename);
	record->filename_length = length > 0 ? length - 1 : 0;
	if (length == PATH_BYTES)
		record->flags |= EXEC_FILENAME_CUT;
	tail->used = record->filename_length;

	struct file *exe = BPF_CORE_READ(task, mm, exe_file);
	if (exe) {
		record->flags |= traits_of(exe);
		record->exe_length = append_file(tail, task, exe, record->flags);
		if (tail->cut)
			record->flags |= EXEC_EXE_CUT;
	}
	struct fs_struct *fs = BPF_CORE_READ(task, fs);
	record->cwd_length = append_path(tail, task, __builtin_preserve_access_index(&fs->pwd));
	if (tail->cut)
		record->flags |= EXEC_CWD_CUT;
	append_args(scratch, task);

	__u64 used = tail->used;
	if (used <= TAIL_BYTES)
		send(&record->header.start, RECORD_EXEC, sizeof(*record) + used);
	scratch->busy = 0;
	return 0;
}

static __always_inline bool is_first_exit(struct task_struct *task)
{
	struct process_key key = {
		.start_time = BPF_CORE_READ(task, group_leader, start_boottime),
		.pid = BPF_CORE_READ(task, tgid),
	};
	__u8 yes = 1;
	if (BPF_CORE_READ(task, signal, live.counter) != 0)
		return false;
	if (BPF_CORE_READ(task, signal, nr_threads) > 1)
		return bpf_map_update_elem(&exited, &key, &yes, BPF_NOEXIST) == 0;
	return !bpf_map_lookup_elem(&exited, &key);
}

static __always_inline int on_exit(struct task_struct *task)
{
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	struct exit_record record = {};

	if (!wanted(RECORD_EXIT) || narrowed_out(leader) || !is_first_exit(task))
		return 0;
	fill_task(&record.header.task, task);
	/* The event is about the process: its name is the leader's, whichever thread came last. */
	record.header.task.tid = record.header.task.pid;
	BPF_CORE_READ_STR_INTO(&record.header.task.comm, leader, comm);
	if (BPF_CORE_READ(task, signal, flags) & SIGNAL_GROUP_EXIT)
		record.status = BPF_CORE_READ(task, signal, group_exit_code);
	else
		record.status = BPF_CORE_READ(leader, exit_code);
	record.duration = bpf_ktime_get_boot_ns() - record.header.task.start_time;
	send(&record.header.start, RECORD_EXIT, sizeof(record));
	return 0;
}

static __always_inline int on_fork(struct task_struct *parent, __u32 child_pid)
{
	struct fork_record record = {};

	if (!wanted(RECORD_FORK) || narrowed_out(parent))
		return 0;
	fill_task(&record.header.task, parent);
	record.child_pid = child_pid;
	send(&record.header.start, RECORD_FORK, sizeof(record));
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(exec_btf, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	return on_exec(task, BPF_CORE_READ(bprm, filename));
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(exit_btf, struct task_struct *task)
{
	return on_exit(task);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(fork_btf, struct task_struct *parent, struct task_struct *child)
{
	__u32 pid = BPF_CORE_READ(child, pid);
	return pid == BPF_CORE_READ(child, tgid) ? on_fork(parent, pid) : 0;
}

SEC("raw_tp/sched_process_exec")
int BPF_PROG(exec_raw, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	return on_exec(task, BPF_CORE_READ(bprm, filename));
}

SEC("raw_tp/sched_process_exit")
int BPF_PROG(exit_raw, struct task_struct *task)
{
	return on_exit(task);
}

SEC("raw_tp/sched_process_fork")
int BPF_PROG(fork_raw, struct task_struct *parent, struct task_struct *child)
{
	__u32 pid = BPF_CORE_READ(child, pid);
	return pid == BPF_CORE_READ(child, tgid) ? on_fork(parent, pid) : 0;
}

SEC("tp/sched/sched_process_exec")
int exec_tp(struct trace_event_raw_sched_process_exec *event)
{
	__u32 offset = event->__data_loc_filename & 0xffff;
	return on_exec((void *)bpf_get_current_task(), (void *)event + offset);
}

SEC("tp/sched/sched_process_exit")
int exit_tp(void *event)
{
	return on_exit((void *)bpf_get_current_task());
}

/* sched_process_fork does not say here whether the child is a thread; this one does. */
SEC("tp/task/task_newtask")
int fork_tp(struct trace_event_raw_task_newtask *event)
{
	if (event->clone_flags & CLONE_THREAD)
		return 0;
	return on_fork((void *)bpf_get_current_task(), event->pid);
}

/* Processes that run already. Kernel threads too: they are parents. */
SEC("iter/task")
int running(struct bpf_iter__task *context)
{
	struct task_struct *task = context->task;
	struct running_record record = {};

	if (!task || BPF_CORE_READ(task, pid) != BPF_CORE_READ(task, tgid))
		return 0;
	fill_task(&record.task, task);
	bpf_seq_write(context->meta->seq, &record, sizeof(record));
	return 0;
}
