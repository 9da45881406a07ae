/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Absolute paths, as the names from the last to the first, each ended by NUL: the way up is the one that a dentry knows. */
#ifndef EUNOMIA_PATH_BPF_H
#define EUNOMIA_PATH_BPF_H

#include "eunomia.bpf.h"
#include "path.h"

/* The including source says how much can stand behind a record's fixed part. */
#ifndef TAIL_BYTES
#error "TAIL_BYTES is not defined"
#endif

#define OVERLAYFS_SUPER_MAGIC 0x794c7630

/* What stands behind a record, with the state of the walk along a path: in memory, so that the verifier need not follow it. */
struct tail {
	char bytes[TAIL_BYTES];
	/* 64 bits wide: the verifier loses the bounds of narrower numbers when they are widened. */
	__u64 used; /* of bytes */
	__u64 limit; /* where the part being written is cut */
	__u64 cut;
	struct dentry *dentry;
	struct mount *mount;
	struct dentry *root_dentry;
	struct mount *root_mount;
};

static __always_inline struct mount *mount_of(struct vfsmount *vfsmount)
{
	return (void *)vfsmount - bpf_core_field_offset(struct mount, mnt);
}

/* Appends one name and its end. False when there is no room. */
static __always_inline bool append_name(struct tail *tail, const struct dentry *dentry)
{
	__u64 used = tail->used;
	if (used > TAIL_BYTES - NAME_BYTES || used > tail->limit) {
		tail->cut = 1;
		return false;
	}
	long length = bpf_probe_read_kernel_str(tail->bytes + used, NAME_BYTES, BPF_CORE_READ(dentry, d_name.name));
	if (length > 0)
		tail->used = used + length;
	return true;
}

/* Appends one name, or crosses one mount point. False at the root. */
static __always_inline bool step_up(struct tail *tail)
{
	struct dentry *dentry = tail->dentry, *parent = BPF_CORE_READ(dentry, d_parent);
	struct mount *mount = tail->mount;

	if (dentry == tail->root_dentry && mount == tail->root_mount)
		return false;
	if (dentry == BPF_CORE_READ(mount, mnt.mnt_root) || dentry == parent) {
		struct mount *above = BPF_CORE_READ(mount, mnt_parent);
		if (above == mount)
			return false;
		tail->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		tail->mount = above;
		return true;
	}
	tail->dentry = parent;
	return append_name(tail, dentry);
}

/* Appends a path. Returns its length in bytes. */
static __always_inline __u32 append_path(struct tail *tail, struct task_struct *task, struct path *path)
{
	__u64 start = tail->used;
	tail->dentry = BPF_CORE_READ(path, dentry);
	tail->mount = mount_of(BPF_CORE_READ(path, mnt));
	tail->root_dentry = BPF_CORE_READ(task, fs, root.dentry);
	tail->root_mount = mount_of(BPF_CORE_READ(task, fs, root.mnt));
	tail->limit = start + PATH_BYTES - 1;
	tail->cut = 1; /* unless the root is reached */
	for (int depth = 0; depth < PATH_DEPTH; depth++) {
		tail->cut = 0;
		if (!step_up(tail))
			break;
		tail->cut = 1;
	}
	return tail->used - start;
}

/* enum file_trait, as bits. */
static __always_inline __u32 traits_of(struct file *file)
{
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	bool top = BPF_CORE_READ(dentry, d_parent) == dentry;
	bool unlinked = BPF_CORE_READ(inode, i_nlink) == 0;
	char name[8] = {};
	__u32 traits = 0;

	if (top && dentry != BPF_CORE_READ(file, f_path.mnt, mnt_root))
		traits |= FILE_NAMELESS;
	bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(dentry, d_name.name));
	if (unlinked && top && name[0] == 'm' && name[1] == 'e' && name[2] == 'm' && name[3] == 'f' && name[4] == 'd' &&
	    name[5] == ':')
		traits |= FILE_MEMFD;
	else if (unlinked || (!top && !BPF_CORE_READ(dentry, d_hash.pprev)))
		traits |= FILE_DELETED;
	if (BPF_CORE_READ(inode, i_sb, s_magic) == OVERLAYFS_SUPER_MAGIC) {
		/* In struct ovl_inode the upper dentry's pointer stands right behind the inode that is embedded there. */
		struct dentry *upper = NULL;
		bpf_probe_read_kernel(&upper, sizeof(upper), (void *)inode + bpf_core_type_size(struct inode));
		traits |= FILE_OVERLAY | (upper ? FILE_UPPER : 0);
	}
	return traits;
}

/* Appends a file's path, or the one name of a file that is in no directory. Returns its length in bytes. */
static __always_inline __u32 append_file(struct tail *tail, struct task_struct *task, struct file *file, __u32 traits)
{
	__u64 start = tail->used;

	if (!(traits & FILE_NAMELESS))
		return append_path(tail, task, __builtin_preserve_access_index(&file->f_path));
	tail->limit = TAIL_BYTES;
	tail->cut = 0;
	append_name(tail, BPF_CORE_READ(file, f_path.dentry));
	return tail->used - start;
}

#endif
