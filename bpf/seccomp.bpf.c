// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Source seccomp, on tracepoints alone. A call that a filter answers has a return (sys_exit) but no begin (sys_enter); one
 * that a filter punishes ends in a death by SIGSYS. Only threads under a filter are followed.
 */
#include "syscall_abi.bpf.h"
#include "seccomp.h"

/* Threads under a filter. */
#define THREADS 65536

#define SECCOMP_MODE_FILTER 2
#define SECCOMP_MODE_DEAD 3 /* since 5.17: a filter has said kill */
#define SIGSYS 31
#define STATUS_SIGNAL 0x7f
#define SIGNAL_GROUP_EXIT 0x00000004

/* Said for a call whose number could not be found out. */
#define UNKNOWN_CALL 0xffffffffL

struct thread {
	__u32 in_call;
	__u32 trapped; /* its last call was answered by a trap */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, THREADS);
	__type(key, __u32);
	__type(value, struct thread);
} threads SEC(".maps");

struct process_key {
	__u64 start_time;
	__u64 pid;
};

/* Processes whose end by a filter has been told: every thread of them ends with the same status. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct process_key);
	__type(value, __u8);
} killed SEC(".maps");

static __always_inline void send_action(struct task_struct *task, long number, __u32 action, __u32 code)
{
	struct seccomp_record record = {};

	fill_task(&record.header.task, task);
	record.abi = abi_of(task, &number);
	record.number = number;
	record.action = action;
	record.code = code;
	send(&record.header.start, RECORD_SECCOMP_ACTION, sizeof(record));
}

static __always_inline bool is_followed(struct task_struct *task)
{
	return BPF_CORE_READ(task, seccomp.mode) >= SECCOMP_MODE_FILTER && wanted(RECORD_SECCOMP_ACTION) &&
	       !narrowed_out(task);
}

/* Whether this is the first thread of its process to be told. */
static __always_inline bool first_killed(struct task_struct *task)
{
	struct process_key key = {
		.start_time = BPF_CORE_READ(task, group_leader, start_boottime),
		.pid = BPF_CORE_READ(task, tgid),
	};
	__u8 yes = 1;
	return bpf_map_update_elem(&killed, &key, &yes, BPF_NOEXIST) == 0;
}

/* The call that a task is in. */
static __always_inline long call_of(struct task_struct *task)
{
	struct pt_regs *regs = registers_of(task);
	return regs ? (long)BPF_CORE_READ(regs, orig_ax) : UNKNOWN_CALL;
}

static __always_inline int on_enter(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 tid = bpf_get_current_pid_tgid();
	struct thread now = { .in_call = true };

	if (is_followed(task))
		bpf_map_update_elem(&threads, &tid, &now, BPF_ANY);
	return 0;
}

static __always_inline int on_return(long number, long value)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 tid = bpf_get_current_pid_tgid();
	struct thread outside = {};

	if (!is_followed(task))
		return 0;
	struct thread *thread = bpf_map_lookup_elem(&threads, &tid);
	if (!thread) {
		/* Its call began before the filter, the thread or this program did. From now on it is followed. */
		bpf_map_update_elem(&threads, &tid, &outside, BPF_ANY);
		return 0;
	}
	if (thread->in_call) {
		thread->in_call = false;
		return 0;
	}
	if (value != number) {
		send_action(task, number, SECCOMP_ERRNO, value < 0 && value >= -MAX_ERRNO ? -value : 0);
		return 0;
	}
	/* The registers have been put back as they were before the call, for SIGSYS to come. */
	if (BPF_CORE_READ(task, seccomp.mode) != SECCOMP_MODE_DEAD) {
		thread->trapped = true;
		send_action(task, number, SECCOMP_TRAP, SIGSYS);
	} else if (first_killed(task)) {
		send_action(task, number, SECCOMP_KILL_PROCESS, SIGSYS);
	}
	return 0;
}

static __always_inline int on_exit(struct task_struct *task)
{
	__u32 tid = BPF_CORE_READ(task, pid);

	if (!is_followed(task))
		return 0;
	struct thread *thread = bpf_map_lookup_elem(&threads, &tid);
	/* SIGSYS may also come from a trap that nobody handles, or, inside a call, from somebody who sends it. */
	bool other_cause = thread && (thread->in_call || thread->trapped);
	bpf_map_delete_elem(&threads, &tid);
	if (other_cause || (BPF_CORE_READ(task, exit_code) & STATUS_SIGNAL) != SIGSYS)
		return 0;
	if (!(BPF_CORE_READ(task, signal, flags) & SIGNAL_GROUP_EXIT))
		send_action(task, call_of(task), SECCOMP_KILL_THREAD, SIGSYS);
	else if (first_killed(task))
		send_action(task, call_of(task), SECCOMP_KILL_PROCESS, SIGSYS);
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(enter_btf, struct pt_regs *regs, long number)
{
	return on_enter();
}

SEC("tp_btf/sys_exit")
int BPF_PROG(return_btf, struct pt_regs *regs, long value)
{
	return on_return(BPF_CORE_READ(regs, orig_ax), value);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(exit_btf, struct task_struct *task)
{
	return on_exit(task);
}

SEC("raw_tp/sys_enter")
int BPF_PROG(enter_raw, struct pt_regs *regs, long number)
{
	return on_enter();
}

SEC("raw_tp/sys_exit")
int BPF_PROG(return_raw, struct pt_regs *regs, long value)
{
	return on_return(BPF_CORE_READ(regs, orig_ax), value);
}

SEC("raw_tp/sched_process_exit")
int BPF_PROG(exit_raw, struct task_struct *task)
{
	return on_exit(task);
}

SEC("tp/raw_syscalls/sys_enter")
int enter_tp(void *event)
{
	return on_enter();
}

SEC("tp/raw_syscalls/sys_exit")
int return_tp(struct trace_event_raw_sys_exit *event)
{
	return on_return(event->id, event->ret);
}

SEC("tp/sched/sched_process_exit")
int exit_tp(void *event)
{
	return on_exit((void *)bpf_get_current_task());
}
