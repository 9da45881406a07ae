// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Finds out whether this kernel grants programs on its functions' entry, by either way, and whether it may interrupt programs
 * that it runs. They see nothing else.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* How often preemption is forbidden on this CPU; above, a bit that says something else. Some kernels keep it elsewhere. */
extern const int __preempt_count __ksym __weak;
#define PREEMPT_NEED_RESCHED 0x80000000

/* Runs that could not be interrupted, and runs that could. */
#define RUNS_FORBIDDEN 0
#define RUNS_ALLOWED 1

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} preempted_runs SEC(".maps");

SEC("fentry/wake_up_new_task")
int BPF_PROG(probe_fentry)
{
	return 0;
}

SEC("kprobe/wake_up_new_task")
int BPF_KPROBE(probe_kprobe)
{
	return 0;
}

SEC("raw_tp/sys_enter")
int BPF_PROG(probe_raw_tp)
{
	if (!&__preempt_count)
		return 0;
	const int *count = bpf_this_cpu_ptr(&__preempt_count);
	__u32 key = *count & ~PREEMPT_NEED_RESCHED ? RUNS_FORBIDDEN : RUNS_ALLOWED;
	__u64 *runs = bpf_map_lookup_elem(&preempted_runs, &key);
	if (runs)
		(*runs)++;
	return 0;
}
