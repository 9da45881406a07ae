/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every record has, shared by the BPF programs and, through their BTF, by the host's decoder.
 * All numbers are in the machine's byte order; padding is explicit and zero.
 */
#ifndef EUNOMIA_H
#define EUNOMIA_H

/* A thread's name, as the kernel holds it. */
#define COMM_BYTES 16

/* The kinds of records. The number is also the row of the counters and the bit of control.wanted. */
enum record_kind {
	RECORD_EXEC = 0,
	RECORD_EXIT = 1,
	RECORD_FORK = 2,
	RECORD_SYSCALL = 3,
	RECORD_SYSCALL_RETURN = 4,
	RECORD_SYSCALL_COUNT = 5,
	RECORD_TCP_CONNECT = 6,
	RECORD_TCP_ACCEPT = 7,
	RECORD_TCP_CLOSE = 8,
	RECORD_CGROUP_CREATED = 9,
	RECORD_CGROUP_REMOVED = 10,
	RECORD_SECCOMP_ACTION = 11,
	RECORD_IPC_ACCESS = 12,
	RECORD_FILE_ACTIVITY = 13,
	RECORD_FILE_IO = 14,
	RECORD_FILE_OPEN = 15,
	RECORD_FILE_CHANGE = 16,
	RECORD_KINDS = 32,
};

/* Who: see record task in wit/types.wit. */
struct record_task {
	__u64 start_time; /* of the process, boot-time ns */
	__u64 cgroup;
	__u32 pid;
	__u32 tid;
	__u32 ppid;
	__u32 uid;
	__u32 gid;
	__u32 pid_ns;
	__u32 mnt_ns;
	__u32 user_ns;
	char comm[COMM_BYTES];
};

/* How every record begins. */
struct record_start {
	__u32 kind; /* enum record_kind */
	__u32 length; /* of the whole record */
	__u64 time; /* boot-time ns */
};

/* How every record begins that is not flat. */
struct record_header {
	struct record_start start;
	struct record_task task;
};

/* Per CPU and kind. Only ever added to. */
struct record_counts {
	__u64 sent; /* records in the ring */
	__u64 dropped; /* no room in the ring */
	__u64 nested; /* another record was being built on this CPU */
};

/* Written by the host before loading. */
struct narrowing {
	__u32 pids; /* entries of only_pids; 0: every process */
	__u32 comms;
	__u32 uids;
	__u32 cgroups;
	__u32 exclude_pids[2]; /* the host's processes; 0: none */
	__u32 judges; /* not 0: cgroups that are not in only_cgroups pass, as the host will say what they are */
};

/* What a plugin is narrowed by, if not by something that stands before it here. */
enum whose {
	WHOSE_PID = 0,
	WHOSE_CGROUP = 1,
	WHOSE_COMM = 2,
	WHOSE_UID = 3,
};

/* Whom some plugin wants. */
struct whose_key {
	__u64 value[2]; /* a number and 0, or a thread's name */
	__u64 whose; /* enum whose */
};

/* Values of only_cgroups. */
enum cgroup_verdict {
	CGROUP_UNWANTED = 0, /* unless it is below one that is wanted */
	CGROUP_WANTED = 1,
};

/* Entries of the map `control`, written while the programs run. */
enum control_key {
	CONTROL_WANTED = 0, /* one bit per enum record_kind */
	CONTROL_READER_ASLEEP = 1, /* not 0: the next record has to wake the reader */
	CONTROL_SUMS = 2, /* 0 or 1: into which of its two maps a source sums */
	CONTROL_PLUGINS = 3, /* bits 1 << enum whose: by which of these plugins narrow, or 0: some plugin is not narrowed */
	CONTROL_KEYS = 4,
};

#endif
