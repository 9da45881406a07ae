// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Source syscall: every call and return, one by one or summed. The busiest programs of all, so the cheap checks first. */
#include "syscall_abi.bpf.h"

/* Threads that are in a call. Those that never return are pushed out in time. */
#define THREADS 65536

/* Pairs of process and call that one interval can sum. Calls beyond are counted as dropped. */
#define COUNTS 65536

struct begun {
	__u64 time;
	__u32 number;
	__u32 abi;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, THREADS);
	__type(key, __u32);
	__type(value, struct begun);
} begun SEC(".maps");

/* Sums go to one of two maps while the host reads the other. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, COUNTS);
	__type(key, struct count_key);
	__type(value, struct count_value);
} counts_0 SEC(".maps"), counts_1 SEC(".maps");

/*
 * The calls that are wanted: for each of the three kinds and each way to call a bit per number, written by the host while the
 * programs run. An array of words, so that a look-up costs next to nothing.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 3 * 3 * SELECTION_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} selected SEC(".maps");

/* Whether a call is wanted as this kind. Numbers beyond every table share the last bit. */
static __always_inline bool selects(enum record_kind kind, __u32 number, __u32 abi)
{
	__u32 bit = number < 64 * SELECTION_WORDS ? number : 64 * SELECTION_WORDS - 1;
	__u32 key = ((kind - RECORD_SYSCALL) * 3 + abi) * SELECTION_WORDS + bit / 64;
	__u64 *bits = bpf_map_lookup_elem(&selected, &key);
	return bits && (*bits & (1ULL << (bit % 64)));
}

/* Where the arguments of a call are found. */
enum arguments {
	IN_REGISTERS, /* which may be read as plain memory */
	IN_RAW_REGISTERS,
	IN_EVENT,
};

#define FILL_ARGUMENTS(flat, parameter)                                                                                \
	do {                                                                                                           \
		(flat)->arg0 = parameter(1);                                                                           \
		(flat)->arg1 = parameter(2);                                                                           \
		(flat)->arg2 = parameter(3);                                                                           \
		(flat)->arg3 = parameter(4);                                                                           \
		(flat)->arg4 = parameter(5);                                                                           \
		(flat)->arg5 = parameter(6);                                                                           \
	} while (0)
#define REGISTER(number) PT_REGS_PARM##number##_SYSCALL((struct pt_regs *)from)
#define RAW_REGISTER(number) PT_REGS_PARM##number##_CORE_SYSCALL((struct pt_regs *)from)

static __always_inline void fill_arguments(struct syscall_flat *flat, enum arguments are, void *from)
{
	__u64 args[6];

	if (are == IN_REGISTERS) {
		FILL_ARGUMENTS(flat, REGISTER);
	} else if (are == IN_RAW_REGISTERS) {
		FILL_ARGUMENTS(flat, RAW_REGISTER);
	} else {
		/* Not by the context's own fields: the verifier wants their offsets constant. */
		BPF_CORE_READ_INTO(&args, (struct trace_event_raw_sys_enter *)from, args);
		__builtin_memcpy(&flat->arg0, args, sizeof(args));
	}
}

static __always_inline int on_enter(long number, enum arguments are, void *from)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 abi = abi_of(task, &number);
	bool calls = selects(RECORD_SYSCALL, number, abi);
	bool timed = selects(RECORD_SYSCALL_RETURN, number, abi) || selects(RECORD_SYSCALL_COUNT, number, abi);

	if ((!calls && !timed) || narrowed_out(task))
		return 0;
	if (calls) {
		struct syscall_record record = { .flat = { .number = number, .abi = abi } };
		FILL_FLAT(&record.flat, task);
		fill_arguments(&record.flat, are, from);
		send((struct record_start *)&record, RECORD_SYSCALL, sizeof(record));
	}
	if (timed) {
		struct begun now = { .time = bpf_ktime_get_boot_ns(), .number = number, .abi = abi };
		__u32 tid = bpf_get_current_pid_tgid();
		bpf_map_update_elem(&begun, &tid, &now, BPF_ANY);
	}
	return 0;
}

static __always_inline void sum(void *counts, struct count_key *key, struct task_struct *task, long value, __u64 duration)
{
	struct count_value *sums = bpf_map_lookup_elem(counts, key);

	if (!sums) {
		struct count_value first = {};
		fill_task(&first.task, task);
		/* Another thread of the process may be as far as this one: whoever comes second finds the first's. */
		bpf_map_update_elem(counts, key, &first, BPF_NOEXIST);
		sums = bpf_map_lookup_elem(counts, key);
		if (!sums)
			return count_dropped(RECORD_SYSCALL_COUNT);
	}
	/* The process may have executed another program since. */
	bpf_get_current_comm(sums->task.comm, COMM_BYTES);
	__sync_fetch_and_add(&sums->count, 1);
	if (error_of(value))
		__sync_fetch_and_add(&sums->errors, 1);
	__sync_fetch_and_add(&sums->total_time, duration);
}

static __always_inline int on_return(long number, long value)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 tid = bpf_get_current_pid_tgid(), abi;
	__u64 duration = 0;

	/* Where only begins are wanted there is nothing to look up. */
	if (!wanted(RECORD_SYSCALL_RETURN) && !wanted(RECORD_SYSCALL_COUNT))
		return 0;
	/* The registers may have changed since, by exec or a signal's return: what was noted at the beginning goes first. */
	struct begun *begin = bpf_map_lookup_elem(&begun, &tid);
	if (begin) {
		number = begin->number;
		abi = begin->abi;
		duration = bpf_ktime_get_boot_ns() - begin->time;
		bpf_map_delete_elem(&begun, &tid);
	} else {
		abi = abi_of(task, &number);
	}
	bool returns = selects(RECORD_SYSCALL_RETURN, number, abi), counts = selects(RECORD_SYSCALL_COUNT, number, abi);
	if ((!returns && !counts) || narrowed_out(task))
		return 0;
	if (returns) {
		struct syscall_return_record record = {
			.flat = { .number = number, .abi = abi, .value = value, .duration = duration },
		};
		FILL_FLAT(&record.flat, task);
		send((struct record_start *)&record, RECORD_SYSCALL_RETURN, sizeof(record));
	}
	if (counts) {
		struct count_key key = { .pid = bpf_get_current_pid_tgid() >> 32, .number = number, .abi = abi };
		if (sums_into_second())
			sum(&counts_1, &key, task, value, duration);
		else
			sum(&counts_0, &key, task, value, duration);
	}
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(enter_btf, struct pt_regs *regs, long number)
{
	return on_enter(number, IN_REGISTERS, regs);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(return_btf, struct pt_regs *regs, long value)
{
	return on_return(regs->orig_ax, value);
}

SEC("raw_tp/sys_enter")
int BPF_PROG(enter_raw, struct pt_regs *regs, long number)
{
	return on_enter(number, IN_RAW_REGISTERS, regs);
}

SEC("raw_tp/sys_exit")
int BPF_PROG(return_raw, struct pt_regs *regs, long value)
{
	return on_return(BPF_CORE_READ(regs, orig_ax), value);
}

SEC("tp/raw_syscalls/sys_enter")
int enter_tp(struct trace_event_raw_sys_enter *event)
{
	return on_enter(event->id, IN_EVENT, event);
}

SEC("tp/raw_syscalls/sys_exit")
int return_tp(struct trace_event_raw_sys_exit *event)
{
	return on_return(event->id, event->ret);
}
