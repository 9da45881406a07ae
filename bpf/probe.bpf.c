// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Finds out whether this kernel grants programs on its functions' entry, by either way. They see nothing. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

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
