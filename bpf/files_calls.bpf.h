/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The system calls that the source files looks at, by number: what they do, and which argument is what. */
#ifndef EUNOMIA_FILES_CALLS_BPF_H
#define EUNOMIA_FILES_CALLS_BPF_H

#include "syscall_abi.bpf.h"
#include "files.h"

/* A power of two above the largest number. */
#define CALLS 512

enum call_does {
	DOES_NOTHING = 0, /* that is looked at */
	DOES_READ,
	DOES_WRITE,
	DOES_OPEN,
	DOES_CHANGE,
};

/* How the arguments behind the paths are to be read. */
enum call_form {
	FORM_PLAIN = 0, /* the change's own: mode; uid and gid; size */
	FORM_CREAT, /* the mode alone: the flags are understood */
	FORM_HOW, /* struct open_how in the caller's memory */
	FORM_HANDLE, /* flags alone: the file is no path */
	FORM_AT_FLAGS, /* AT_REMOVEDIR makes unlinkat an rmdir */
	FORM_SHORT_IDS, /* of 16 bits */
	FORM_SPLIT_SIZE, /* low half, high half */
};

/* Arguments are counted from 1; 0: it has none of the sort. */
struct call {
	__u8 does;
	__u8 change; /* enum file_changed */
	__u8 form;
	__u8 fd; /* the file itself */
	__u8 directory; /* what path is relative to; none: the current directory */
	__u8 path;
	__u8 other_directory;
	__u8 other_path;
	__u8 rest; /* the first argument that is neither */
	__u8 padding[7];
};

#define READS { .does = DOES_READ, .fd = 1 }
#define WRITES { .does = DOES_WRITE, .fd = 1 }
#define OPENS(...) { .does = DOES_OPEN, __VA_ARGS__ }
#define CHANGES(what, ...) { .does = DOES_CHANGE, .change = CHANGE_##what, __VA_ARGS__ }

/* By ABI_NATIVE and ABI_COMPAT; x32 has the native numbers but for a few. */
const volatile struct call calls[2][CALLS] = {
	[ABI_NATIVE] = {
		[0] = READS, /* read */
		[1] = WRITES,
		[2] = OPENS(.path = 1, .rest = 2),
		[17] = READS, /* pread64 */
		[18] = WRITES,
		[19] = READS, /* readv */
		[20] = WRITES,
		[76] = CHANGES(TRUNCATE, .path = 1, .rest = 2),
		[77] = CHANGES(TRUNCATE, .fd = 1, .rest = 2),
		[82] = CHANGES(RENAME, .path = 1, .other_path = 2),
		[83] = CHANGES(MKDIR, .path = 1, .rest = 2),
		[84] = CHANGES(RMDIR, .path = 1),
		[85] = OPENS(.path = 1, .rest = 2, .form = FORM_CREAT),
		[86] = CHANGES(LINK, .path = 1, .other_path = 2),
		[87] = CHANGES(DELETE, .path = 1), /* unlink */
		[88] = CHANGES(SYMLINK, .path = 2, .other_path = 1),
		[90] = CHANGES(CHMOD, .path = 1, .rest = 2),
		[91] = CHANGES(CHMOD, .fd = 1, .rest = 2),
		[92] = CHANGES(CHOWN, .path = 1, .rest = 2),
		[93] = CHANGES(CHOWN, .fd = 1, .rest = 2),
		[94] = CHANGES(CHOWN, .path = 1, .rest = 2), /* lchown */
		[257] = OPENS(.directory = 1, .path = 2, .rest = 3), /* openat */
		[258] = CHANGES(MKDIR, .directory = 1, .path = 2, .rest = 3),
		[260] = CHANGES(CHOWN, .directory = 1, .path = 2, .rest = 3),
		[263] = CHANGES(DELETE, .directory = 1, .path = 2, .rest = 3, .form = FORM_AT_FLAGS),
		[264] = CHANGES(RENAME, .directory = 1, .path = 2, .other_directory = 3, .other_path = 4),
		[265] = CHANGES(LINK, .directory = 1, .path = 2, .other_directory = 3, .other_path = 4),
		[266] = CHANGES(SYMLINK, .other_path = 1, .directory = 2, .path = 3),
		[268] = CHANGES(CHMOD, .directory = 1, .path = 2, .rest = 3),
		[295] = READS, /* preadv */
		[296] = WRITES,
		[304] = OPENS(.directory = 1, .rest = 3, .form = FORM_HANDLE), /* open_by_handle_at */
		[316] = CHANGES(RENAME, .directory = 1, .path = 2, .other_directory = 3, .other_path = 4),
		[327] = READS, /* preadv2 */
		[328] = WRITES,
		[437] = OPENS(.directory = 1, .path = 2, .rest = 3, .form = FORM_HOW), /* openat2 */
		[452] = CHANGES(CHMOD, .directory = 1, .path = 2, .rest = 3), /* fchmodat2 */
	},
	[ABI_COMPAT] = {
		[3] = READS,
		[4] = WRITES,
		[5] = OPENS(.path = 1, .rest = 2),
		[8] = OPENS(.path = 1, .rest = 2, .form = FORM_CREAT),
		[9] = CHANGES(LINK, .path = 1, .other_path = 2),
		[10] = CHANGES(DELETE, .path = 1),
		[15] = CHANGES(CHMOD, .path = 1, .rest = 2),
		[16] = CHANGES(CHOWN, .path = 1, .rest = 2, .form = FORM_SHORT_IDS), /* lchown */
		[38] = CHANGES(RENAME, .path = 1, .other_path = 2),
		[39] = CHANGES(MKDIR, .path = 1, .rest = 2),
		[40] = CHANGES(RMDIR, .path = 1),
		[83] = CHANGES(SYMLINK, .path = 2, .other_path = 1),
		[92] = CHANGES(TRUNCATE, .path = 1, .rest = 2),
		[93] = CHANGES(TRUNCATE, .fd = 1, .rest = 2),
		[94] = CHANGES(CHMOD, .fd = 1, .rest = 2),
		[95] = CHANGES(CHOWN, .fd = 1, .rest = 2, .form = FORM_SHORT_IDS),
		[145] = READS, /* readv */
		[146] = WRITES,
		[180] = READS, /* pread64 */
		[181] = WRITES,
		[182] = CHANGES(CHOWN, .path = 1, .rest = 2, .form = FORM_SHORT_IDS),
		[193] = CHANGES(TRUNCATE, .path = 1, .rest = 2, .form = FORM_SPLIT_SIZE), /* truncate64 */
		[194] = CHANGES(TRUNCATE, .fd = 1, .rest = 2, .form = FORM_SPLIT_SIZE),
		[198] = CHANGES(CHOWN, .path = 1, .rest = 2), /* lchown32 */
		[207] = CHANGES(CHOWN, .fd = 1, .rest = 2),
		[212] = CHANGES(CHOWN, .path = 1, .rest = 2),
		[295] = OPENS(.directory = 1, .path = 2, .rest = 3), /* openat */
		[296] = CHANGES(MKDIR, .directory = 1, .path = 2, .rest = 3),
		[298] = CHANGES(CHOWN, .directory = 1, .path = 2, .rest = 3),
		[301] = CHANGES(DELETE, .directory = 1, .path = 2, .rest = 3, .form = FORM_AT_FLAGS),
		[302] = CHANGES(RENAME, .directory = 1, .path = 2, .other_directory = 3, .other_path = 4),
		[303] = CHANGES(LINK, .directory = 1, .path = 2, .other_directory = 3, .other_path = 4),
		[304] = CHANGES(SYMLINK, .other_path = 1, .directory = 2, .path = 3),
		[306] = CHANGES(CHMOD, .directory = 1, .path = 2, .rest = 3),
		[333] = READS, /* preadv */
		[334] = WRITES,
		[342] = OPENS(.directory = 1, .rest = 3, .form = FORM_HANDLE), /* open_by_handle_at */
		[353] = CHANGES(RENAME, .directory = 1, .path = 2, .other_directory = 3, .other_path = 4),
		[378] = READS, /* preadv2 */
		[379] = WRITES,
		[437] = OPENS(.directory = 1, .path = 2, .rest = 3, .form = FORM_HOW), /* openat2 */
		[452] = CHANGES(CHMOD, .directory = 1, .path = 2, .rest = 3), /* fchmodat2 */
	},
};

/* The calls whose x32 number is another one. */
static __always_inline long native_number(long x32)
{
	switch (x32) {
	case 515:
		return 19; /* readv */
	case 516:
		return 20;
	case 534:
		return 295; /* preadv */
	case 535:
		return 296;
	case 546:
		return 327; /* preadv2 */
	case 547:
		return 328;
	default:
		return x32;
	}
}

/* What a call does; NULL for one that is not looked at. */
static __always_inline const volatile struct call *call_of(__u32 abi, long number)
{
	if (abi == ABI_X32)
		number = native_number(number);
	if (number < 0 || number >= CALLS)
		return NULL;
	const volatile struct call *call = &calls[abi == ABI_COMPAT][number & (CALLS - 1)];
	return call->does ? call : NULL;
}

#endif
