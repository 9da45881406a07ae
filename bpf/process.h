/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Records of the source process. See wit/process.wit for what the fields mean. */
#ifndef EUNOMIA_PROCESS_H
#define EUNOMIA_PROCESS_H

#include "eunomia.h"
#include "path.h"

/* Arguments are cut here. A power of two, so that offsets can be masked. */
#define ARGS_BYTES 8192

#define TTY_BYTES 32

/* The lower bits are those of the file run: enum file_trait. */
enum exec_flag {
	EXEC_ARGS_CUT = 1 << 8,
	EXEC_FILENAME_CUT = 1 << 9,
	EXEC_EXE_CUT = 1 << 10,
	EXEC_CWD_CUT = 1 << 11,
};

/*
 * Behind the fixed part stand, without gaps: filename (filename_length bytes), exe and cwd as names from the last to
 * the first, each ended by NUL (exe_length, cwd_length), and the arguments, each ended by NUL (args_length).
 */
struct exec_record {
	struct record_header header;
	__u64 capabilities;
	__u32 login_uid; /* 0xffffffff: none */
	__u32 flags; /* enum exec_flag and enum file_trait */
	__u32 filename_length;
	__u32 exe_length;
	__u32 cwd_length;
	__u32 args_length;
	char tty[TTY_BYTES]; /* empty: none */
	char parent_comm[COMM_BYTES];
};

struct exit_record {
	struct record_header header;
	__u64 duration; /* ns */
	__u32 status; /* as wait(2) gives it */
	__u32 padding;
};

struct fork_record {
	struct record_header header;
	__u32 child_pid;
	__u32 padding;
};

/* A process that runs already, from the task iterator. */
struct running_record {
	struct record_task task;
};

#endif
