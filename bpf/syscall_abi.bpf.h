/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How a system call was made. */
#ifndef EUNOMIA_SYSCALL_ABI_BPF_H
#define EUNOMIA_SYSCALL_ABI_BPF_H

#include "eunomia.bpf.h"
#include "syscall.h"

/* In thread_info.status: the call came through a 32-bit entry. */
#define TS_COMPAT 0x0002
#define X32_SYSCALL_BIT 0x40000000

/* The largest errno: a return value from -4095 to -1 is an error. */
#define MAX_ERRNO 4095

static __always_inline __u32 abi_of(struct task_struct *task, long *number)
{
	if (BPF_CORE_READ(task, thread_info.status) & TS_COMPAT)
		return ABI_COMPAT;
	if (*number & X32_SYSCALL_BIT) {
		*number &= ~X32_SYSCALL_BIT;
		return ABI_X32;
	}
	return ABI_NATIVE;
}

#endif
