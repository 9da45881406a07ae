// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Source seccomp. A call that a filter answers comes out of __secure_computing with -1; on tracepoints alone, it has a
 * return (sys_exit) but no begin (sys_enter). One that a filter punishes ends in a death by SIGSYS. What a filter logs, or
 * asks a tracer or a supervisor about, is known from what the kernel then calls. Only threads under a filter are followed.
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

/* In linux/seccomp.h. */
#define SECCOMP_RET_ACTION_FULL 0xffff0000U
#define SECCOMP_RET_LOG 0x7ffc0000U

/* What ptrace_notify is told when a filter hands a call to a tracer: SIGTRAP and PTRACE_EVENT_SECCOMP. */
#define SECCOMP_TRACE_STOP (5 | 7 << 8)

/* What the kernel puts in the place of a call's result before it is made. */
#define ENOSYS 38

/* Said for a call whose number could not be found out. */
#define UNKNOWN_CALL 0xffffffffL

/* Bits of thread.asked. */
#define ASKED_TRACER 1
#define ASKED_SUPERVISOR 2

struct thread {
	__u32 in_call; /* no filter stopped its last call */
	__u32 trapped; /* its last call was answered by a trap */
	__u32 in_filter; /* where that is known */
	__u32 asked; /* by the filter that it is in */
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

/* Tells what came of asking somebody, if that was done. */
static __always_inline bool was_asked(struct task_struct *task, struct thread *thread, long number, long value)
{
	__u32 asked = thread->asked;

	thread->asked = 0;
	if (asked)
		send_action(task, number, asked & ASKED_SUPERVISOR ? SECCOMP_USER_NOTIF : SECCOMP_TRACE, error_of(value));
	return asked;
}

/* A filter has stopped a call, which returns this. */
static __always_inline void on_stopped(struct task_struct *task, struct thread *thread, long number, long value)
{
	if (was_asked(task, thread, number, value))
		return;
	if (value != number) {
		send_action(task, number, SECCOMP_ERRNO, error_of(value));
		return;
	}
	/* The registers have been put back as they were before the call, for SIGSYS to come. */
	if (BPF_CORE_READ(task, seccomp.mode) != SECCOMP_MODE_DEAD) {
		thread->trapped = true;
		send_action(task, number, SECCOMP_TRAP, SIGSYS);
	} else if (first_killed(task)) {
		send_action(task, number, SECCOMP_KILL_PROCESS, SIGSYS);
	}
}

static __always_inline int on_enter(long number)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 tid = bpf_get_current_pid_tgid();
	struct thread now = { .in_call = true };

	if (!is_followed(task))
		return 0;
	struct thread *thread = bpf_map_lookup_elem(&threads, &tid);
	if (thread)
		was_asked(task, thread, number, 0);
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
	if (thread->in_call)
		thread->in_call = false;
	else
		on_stopped(task, thread, number, value);
	return 0;
}

static __always_inline int on_filter_enter(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 tid = bpf_get_current_pid_tgid();
	struct thread now = { .in_filter = true };

	if (is_followed(task))
		bpf_map_update_elem(&threads, &tid, &now, BPF_ANY);
	return 0;
}

static __always_inline int on_filter_exit(bool stopped)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 tid = bpf_get_current_pid_tgid();
	struct thread *thread = bpf_map_lookup_elem(&threads, &tid);
	struct pt_regs *regs = registers_of(task);

	if (!thread || !thread->in_filter)
		return 0;
	thread->in_filter = false;
	thread->in_call = !stopped;
	if (stopped)
		on_stopped(task, thread, regs ? BPF_CORE_READ(regs, orig_ax) : UNKNOWN_CALL,
			   regs ? BPF_CORE_READ(regs, ax) : 0);
	else
		was_asked(task, thread, call_of(task), 0);
	return 0;
}

/* A thread that a filter may be deciding about asks somebody. */
static __always_inline int on_asking(__u32 whom)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 tid = bpf_get_current_pid_tgid();
	struct thread *thread;

	if (!is_followed(task))
		return 0;
	thread = bpf_map_lookup_elem(&threads, &tid);
	if (!thread || thread->in_call)
		return 0;
	if (!thread->in_filter) {
		/* Before a call is made, or outside of any. */
		struct pt_regs *regs = registers_of(task);
		if (!regs || (long)BPF_CORE_READ(regs, ax) != -ENOSYS)
			return 0;
	}
	thread->asked |= whom;
	return 0;
}

static __always_inline int on_log(long number, int action)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (((__u32)action & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_LOG && is_followed(task))
		send_action(task, number, SECCOMP_LOG, 0);
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

SEC("fentry/__secure_computing")
int BPF_PROG(filter_enter)
{
	return on_filter_enter();
}

/* Its arguments have changed with time: the result stands behind them. The helper that knows where is there since 5.17. */
SEC("fexit/__secure_computing")
int filter_exit(__u64 *context)
{
	__u64 result = 0;

	if (bpf_core_enum_value_exists(enum bpf_func_id___known, BPF_FUNC_get_func_ret___known))
		bpf_get_func_ret(context, &result);
	else
		result = context[1];
	return on_filter_exit((int)result != 0);
}

SEC("fentry/audit_seccomp")
int BPF_PROG(log_enter, unsigned long number, long signal, int action)
{
	return on_log(number, action);
}

SEC("fentry/ptrace_notify")
int BPF_PROG(trace_enter, int stop)
{
	return stop == SECCOMP_TRACE_STOP ? on_asking(ASKED_TRACER) : 0;
}

/* The only two ways in which a call waits for its supervisor, and nothing else within a filter does. */
SEC("fentry/wait_for_completion_interruptible")
int BPF_PROG(wait_enter)
{
	return on_asking(ASKED_SUPERVISOR);
}

SEC("fentry/wait_for_completion_killable")
int BPF_PROG(wait_killable_enter)
{
	return on_asking(ASKED_SUPERVISOR);
}

SEC("kprobe/audit_seccomp")
int BPF_KPROBE(log_kprobe, unsigned long number, long signal, int action)
{
	return on_log(number, action);
}

SEC("kprobe/ptrace_notify")
int BPF_KPROBE(trace_kprobe, int stop)
{
	return stop == SECCOMP_TRACE_STOP ? on_asking(ASKED_TRACER) : 0;
}

SEC("kprobe/wait_for_completion_interruptible")
int BPF_KPROBE(wait_kprobe)
{
	return on_asking(ASKED_SUPERVISOR);
}

SEC("kprobe/wait_for_completion_killable")
int BPF_KPROBE(wait_killable_kprobe)
{
	return on_asking(ASKED_SUPERVISOR);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(enter_btf, struct pt_regs *regs, long number)
{
	return on_enter(number);
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
	return on_enter(number);
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
int enter_tp(struct trace_event_raw_sys_enter *event)
{
	return on_enter(event->id);
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
