/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How a system call was made. */
#ifndef EUNOMIA_SYSCALL_ABI_BPF_H
#define EUNOMIA_SYSCALL_ABI_BPF_H

#include "eunomia.bpf.h"
#include "syscall.h"

/* In thread_info.status: the call came through a 32-bit entry. */
#define TS_COMPAT 0x0002
#define X32_SYSCALL_BIT 0x40000000

/* The kernel's stack of a task, at whose end the registers of its call stand; without the debugging aids that double it. */
#define THREAD_SIZE 16384
#define USER_CS 0x33
#define USER32_CS 0x23
#define FRED_PADDING 16

/* The largest errno: a return value from -4095 to -1 is an error. */
#define MAX_ERRNO 4095

/* For the current task. */
static __always_inline __u32 abi_of(struct task_struct *task, long *number)
{
	__u32 status = has_task_btf() ? bpf_get_current_task_btf()->thread_info.status :
					BPF_CORE_READ(task, thread_info.status);

	if (status & TS_COMPAT)
		return ABI_COMPAT;
	if (*number & X32_SYSCALL_BIT) {
		*number &= ~X32_SYSCALL_BIT;
		return ABI_X32;
	}
	return ABI_NATIVE;
}

/* The errno of a call that failed; 0 of one that did not. */
static __always_inline __u32 error_of(long value)
{
	return value < 0 && value >= -MAX_ERRNO ? -value : 0;
}

static __always_inline bool are_users(struct pt_regs *regs)
{
	unsigned long cs = BPF_CORE_READ(regs, cs);
	return cs == USER_CS || cs == USER32_CS;
}

/* The registers with which a task has entered the kernel; NULL where they are not found. */
static __always_inline struct pt_regs *registers_of(struct task_struct *task)
{
	void *end = BPF_CORE_READ(task, stack) + THREAD_SIZE - bpf_core_type_size(struct pt_regs);

	if (are_users(end))
		return end;
	return are_users(end - FRED_PADDING) ? end - FRED_PADDING : NULL;
}

/* The file behind a descriptor; NULL where there is none. */
static __always_inline struct file *file_of(struct task_struct *task, __u32 fd)
{
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file *file = NULL;

	if (fd < BPF_CORE_READ(table, max_fds)) {
		struct file **files = BPF_CORE_READ(table, fd);
		bpf_probe_read_kernel(&file, sizeof(file), files + fd);
	}
	return file;
}

#endif
