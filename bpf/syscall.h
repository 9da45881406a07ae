/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Records of the source syscall. See wit/syscall.wit for what the fields mean. */
#ifndef EUNOMIA_SYSCALL_H
#define EUNOMIA_SYSCALL_H

#include "eunomia.h"

/* As the cases of enum abi in wit/syscall.wit. */
enum syscall_abi {
	ABI_NATIVE = 0,
	ABI_COMPAT = 1,
	ABI_X32 = 2,
};

/* Words of the calls that are wanted, for each kind and each way to call: numbers up to 1023. */
#define SELECTION_WORDS 16

/* Flat: the bytes of the WIT record, in its order, with boot times. */
struct syscall_flat {
	__u64 time;
	__u64 start_time;
	__u64 cgroup;
	char comm[COMM_BYTES];
	__u32 pid;
	__u32 tid;
	__u32 ppid;
	__u32 uid;
	__u32 gid;
	__u32 number;
	__u64 arg0;
	__u64 arg1;
	__u64 arg2;
	__u64 arg3;
	__u64 arg4;
	__u64 arg5;
	__u8 abi;
	__u8 padding[7];
};

struct syscall_return_flat {
	__u64 time;
	__u64 start_time;
	__u64 cgroup;
	char comm[COMM_BYTES];
	__u32 pid;
	__u32 tid;
	__u32 ppid;
	__u32 uid;
	__u32 gid;
	__u32 number;
	__s64 value;
	__u64 duration;
	__u8 abi;
	__u8 padding[7];
};

/* How they enter the ring: as every record begins, for the time is the first of the fields. */
struct syscall_record {
	__u32 kind;
	__u32 length;
	struct syscall_flat flat;
};

struct syscall_return_record {
	__u32 kind;
	__u32 length;
	struct syscall_return_flat flat;
};

/* What is summed: an entry of the maps counts_0 and counts_1. */
struct count_key {
	__u32 pid;
	__u32 number;
	__u32 abi;
	__u32 padding;
};

struct count_value {
	__u64 count;
	__u64 errors;
	__u64 total_time;
	struct record_task task;
};

/* An entry with its key, as the host puts it together. */
struct syscall_count_record {
	struct record_header header;
	__u64 count;
	__u64 errors;
	__u64 total_time;
	__u32 number;
	__u32 abi;
};

#endif
