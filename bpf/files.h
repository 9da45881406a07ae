/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Records of the source files. See wit/files.wit for what the fields mean. */
#ifndef EUNOMIA_FILES_H
#define EUNOMIA_FILES_H

#include "eunomia.h"
#include "path.h"

/* A path in a sum is cut here, so that a full table of them takes some tens of MiB and not a GiB. */
#define ACTIVITY_PATH_BYTES 256

/* As the cases of enum file-type in wit/files.wit. */
enum file_kind {
	FILE_REGULAR = 0,
	FILE_SOCKET = 1,
	FILE_OTHER = 2,
};

/* As the cases of enum file-operation. */
enum file_did {
	FILE_READ = 0,
	FILE_WRITE = 1,
};

/* As the cases of enum change. */
enum file_changed {
	CHANGE_DELETE = 0,
	CHANGE_RENAME = 1,
	CHANGE_LINK = 2,
	CHANGE_SYMLINK = 3,
	CHANGE_MKDIR = 4,
	CHANGE_RMDIR = 5,
	CHANGE_CHMOD = 6,
	CHANGE_CHOWN = 7,
	CHANGE_TRUNCATE = 8,
};

/* Flat: the bytes of the WIT record, in its order, with boot times. */
struct file_io_flat {
	__u64 time;
	__u64 start_time;
	__u64 cgroup;
	char comm[COMM_BYTES];
	__u32 pid;
	__u32 tid;
	__u32 ppid;
	__u32 uid;
	__u32 gid;
	__u32 device;
	__u64 inode;
	__u64 bytes;
	__u32 error;
	__u8 operation; /* enum file_did */
	__u8 type; /* enum file_kind */
	__u8 padding[2];
};

/* How it enters the ring: as every record begins, for the time is the first of the fields. */
struct file_io_record {
	__u32 kind;
	__u32 length;
	struct file_io_flat flat;
};

/* What is summed: an entry of the maps activity_0 and activity_1. */
struct activity_key {
	__u64 dentry;
	__u64 inode;
	__u32 device;
	__u32 tid;
};

struct activity_value {
	__u64 reads;
	__u64 writes;
	__u64 read_bytes;
	__u64 write_bytes;
	struct record_task task;
	__u32 type; /* enum file_kind */
	__u32 traits; /* enum file_trait */
	__u32 cut;
	__u32 path_length;
	char path[ACTIVITY_PATH_BYTES]; /* names, the last one first */
};

/* An entry with its key, as the host puts it together; the path stands behind it. */
struct file_activity_record {
	struct record_header header;
	__u64 inode;
	__u64 reads;
	__u64 writes;
	__u64 read_bytes;
	__u64 write_bytes;
	__u32 device;
	__u32 type; /* enum file_kind */
	__u32 traits; /* enum file_trait */
	__u32 cut;
	__u32 path_length;
	__u32 padding;
};

/*
 * A path as it was given to a call: below a directory whose names stand first, the last one first (base_length bytes), as
 * the bytes behind them (given_length). Without the second, the names are the path itself.
 */
struct given_path {
	__u32 base_length;
	__u32 given_length;
	__u32 cut; /* enum path_cut */
	__u32 traits; /* of the base: enum file_trait */
};

enum path_cut {
	BASE_CUT = 1 << 0,
	GIVEN_CUT = 1 << 1,
	BASE_UNKNOWN = 1 << 2, /* there is no such directory */
};

struct file_open_record {
	struct record_header header;
	__u64 inode;
	__u32 device;
	__u32 type; /* enum file_kind */
	__u32 flags; /* as in fcntl.h */
	__u32 mode; /* permissions, for a file that is made */
	__u32 error;
	__u32 created;
	struct given_path path;
};

/* For what a kind of change does not have: no mode, no owner. */
#define UNCHANGED 0xffffffff

struct file_change_record {
	struct record_header header;
	__u64 size; /* of truncate */
	__u32 change; /* enum file_changed */
	__u32 error;
	__u32 mode;
	__u32 uid;
	__u32 gid;
	__u32 padding;
	struct given_path path;
	struct given_path other_path; /* of rename, link and symlink */
};

#endif
