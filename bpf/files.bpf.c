// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Source files: what is read and written, opened and changed. On tracepoints all of it from the calls' return: the
 * registers still hold the arguments then, and the descriptor leads to the file. Where functions can be followed, reads and
 * writes come from those that all such calls go through, and no other call pays for them.
 *
 * Kprobes do not serve: the kernel follows only a few returns at a time, and reads may wait for ever.
 */
#include "eunomia.bpf.h"
#include "files.h"

/* All that can stand behind a fixed part: two paths below directories. */
#define TAIL_BYTES (4 * PATH_BYTES + 2 * NAME_BYTES)

#include "path.bpf.h"
#include "files_calls.bpf.h"

/* Pairs of thread and file that one interval can sum; what is beyond is counted as dropped. */
#define ACTIVITIES 32768

#define S_IFMT 0170000
#define S_IFREG 0100000
#define S_IFSOCK 0140000

#define O_WRONLY 01
#define O_CREAT 0100
#define O_TRUNC 01000

/* In file.f_mode: this call has made the file. */
#define FMODE_CREATED (1 << 20)

#define AT_FDCWD -100
#define AT_REMOVEDIR 0x200

#define EBADF 9
#define EINTR 4

/* A call that a signal has interrupted: it begins anew, or the caller sees EINTR. */
#define ERESTARTSYS 512
#define ERESTART_RESTARTBLOCK 516

/* A uid of 16 bits that means: leave it. */
#define SHORT_UNCHANGED 0xffff

struct open_how {
	__u64 flags;
	__u64 mode;
};

/* Where records are built: whichever it is ends where the tail begins. */
struct scratch {
	union {
		struct file_change_record change;
		struct {
			char before[sizeof(struct file_change_record) - sizeof(struct file_open_record)];
			struct file_open_record open;
		};
	};
	struct tail tail;
	struct activity_value first;
	__u64 busy;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

/* Sums go to one of two maps while the host reads the other. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ACTIVITIES);
	__type(key, struct activity_key);
	__type(value, struct activity_value);
} activity_0 SEC(".maps"), activity_1 SEC(".maps");

/* The scratch of this CPU; NULL, and counted, while another record is built in it. */
static __always_inline struct scratch *take_scratch(enum record_kind kind)
{
	__u32 zero = 0;
	struct scratch *scratch = bpf_map_lookup_elem(&scratches, &zero);

	if (!scratch)
		return NULL;
	if (scratch->busy) {
		count_nested(kind);
		return NULL;
	}
	scratch->busy = 1;
	scratch->tail.used = 0;
	return scratch;
}

/* The errno as the caller sees it. */
static __always_inline __u32 seen_error(long value)
{
	__u32 error = error_of(value);
	return error >= ERESTARTSYS && error <= ERESTART_RESTARTBLOCK ? EINTR : error;
}

static __always_inline __u32 type_of(struct inode *inode)
{
	__u32 format = BPF_CORE_READ(inode, i_mode) & S_IFMT;
	return format == S_IFREG ? FILE_REGULAR : format == S_IFSOCK ? FILE_SOCKET : FILE_OTHER;
}

/* The sums of a thread and a file that it had not used in this interval. */
static __always_inline struct activity_value *first_sums(void *activity, struct activity_key *key,
							  struct task_struct *task, struct file *file)
{
	struct scratch *scratch = take_scratch(RECORD_FILE_ACTIVITY);
	struct activity_value *sums = NULL;

	if (!scratch)
		return NULL;
	struct activity_value *first = &scratch->first;
	__builtin_memset(first, 0, __builtin_offsetof(struct activity_value, path));
	fill_task(&first->task, task);
	first->type = FILE_OTHER;
	if (file) {
		first->type = type_of(BPF_CORE_READ(file, f_inode));
		first->traits = traits_of(file);
		__u32 length = append_file(&scratch->tail, task, file, first->traits);
		first->cut = scratch->tail.cut || length > ACTIVITY_PATH_BYTES;
		first->path_length = length > ACTIVITY_PATH_BYTES ? ACTIVITY_PATH_BYTES : length;
		__builtin_memcpy(first->path, scratch->tail.bytes, ACTIVITY_PATH_BYTES);
	}
	if (bpf_map_update_elem(activity, key, first, BPF_NOEXIST) == 0)
		sums = bpf_map_lookup_elem(activity, key);
	else
		count_dropped(RECORD_FILE_ACTIVITY);
	scratch->busy = 0;
	return sums;
}

static __always_inline void sum(void *activity, struct activity_key *key, struct task_struct *task, struct file *file,
				enum file_did did, __u64 bytes)
{
	struct activity_value *sums = bpf_map_lookup_elem(activity, key);

	if (!sums)
		sums = first_sums(activity, key, task, file);
	if (!sums)
		return;
	/* No other thread adds to them: the key has the thread. */
	if (did == FILE_READ) {
		sums->reads++;
		sums->read_bytes += bytes;
	} else {
		sums->writes++;
		sums->write_bytes += bytes;
	}
}

/* A read or write has returned. The file is NULL where another thread has closed it meanwhile. */
static __always_inline int on_io(struct file *file, enum file_did did, long value)
{
	bool activity = wanted(RECORD_FILE_ACTIVITY), each = wanted(RECORD_FILE_IO);
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 bytes = value > 0 ? value : 0;

	if ((!activity && !each) || narrowed_out(task))
		return 0;
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	__u32 device = BPF_CORE_READ(inode, i_sb, s_dev);
	if (each) {
		struct file_io_record record = {
			.flat = { .bytes = bytes, .error = seen_error(value), .operation = did },
		};
		FILL_FLAT(&record.flat, task);
		record.flat.device = device;
		record.flat.inode = BPF_CORE_READ(inode, i_ino);
		record.flat.type = type_of(inode);
		send((struct record_start *)&record, RECORD_FILE_IO, sizeof(record));
	}
	if (activity) {
		struct activity_key key = {
			.dentry = (__u64)BPF_CORE_READ(file, f_path.dentry),
			.inode = BPF_CORE_READ(inode, i_ino),
			.device = device,
			.tid = bpf_get_current_pid_tgid(),
		};
		if (sums_into_second())
			sum(&activity_1, &key, task, file, did, bytes);
		else
			sum(&activity_0, &key, task, file, did, bytes);
	}
	return 0;
}

/*
 * Appends a path as the caller gave it: the directory that it is relative to, unless it begins at the root, and then its own
 * bytes. An empty one means the directory itself.
 */
static __noinline int append_given(struct tail *tail, struct given_path *path, int directory, const char *given)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fs_struct *fs = BPF_CORE_READ(task, fs);
	struct path *base = __builtin_preserve_access_index(&fs->pwd);
	char first = 0;

	path->base_length = path->given_length = path->cut = path->traits = 0;
	bpf_probe_read_user(&first, sizeof(first), given);
	if (first != '/') {
		if (directory != AT_FDCWD) {
			struct file *file = file_of(task, directory);
			base = __builtin_preserve_access_index(&file->f_path);
			if (file && !first)
				path->traits = traits_of(file);
			if (!file)
				path->cut |= BASE_UNKNOWN;
		}
		if (!(path->cut & BASE_UNKNOWN)) {
			path->base_length = append_path(tail, task, base);
			path->cut |= tail->cut ? BASE_CUT : 0;
		}
	}
	__u64 used = tail->used;
	if (!first || used > TAIL_BYTES - PATH_BYTES)
		return 0;
	long length = bpf_probe_read_user_str(tail->bytes + used, PATH_BYTES, given);
	if (length > 0) {
		path->given_length = length - 1;
		tail->used = used + length - 1;
	}
	if (length == PATH_BYTES)
		path->cut |= GIVEN_CUT;
	return 0;
}

/* A path that is a file's own. */
static __always_inline void append_own(struct tail *tail, struct given_path *path, struct task_struct *task, struct file *file)
{
	path->given_length = 0;
	path->traits = traits_of(file);
	path->base_length = append_file(tail, task, file, path->traits);
	path->cut = tail->cut ? BASE_CUT : 0;
}

/* Arguments by number from 1. */
struct arguments {
	__u64 values[8];
};

static __always_inline __u64 argument(struct arguments *arguments, __u32 number)
{
	return arguments->values[number & 7];
}

static __always_inline int directory_of(struct arguments *arguments, __u32 number)
{
	return number ? (int)argument(arguments, number) : AT_FDCWD;
}

static __always_inline int on_open(const volatile struct call *call, struct arguments *arguments, long value)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (!wanted(RECORD_FILE_OPEN) || narrowed_out(task))
		return 0;
	struct scratch *scratch = take_scratch(RECORD_FILE_OPEN);
	if (!scratch)
		return 0;
	struct file_open_record *record = &scratch->open;
	__builtin_memset(record, 0, sizeof(*record));
	fill_task(&record->header.task, task);
	record->error = seen_error(value);
	record->flags = argument(arguments, call->rest);
	record->mode = argument(arguments, call->rest + 1);
	if (call->form == FORM_CREAT) {
		record->mode = record->flags;
		record->flags = O_CREAT | O_WRONLY | O_TRUNC;
	} else if (call->form == FORM_HANDLE) {
		record->mode = 0;
	} else if (call->form == FORM_HOW) {
		struct open_how how = {};
		bpf_probe_read_user(&how, sizeof(how), (void *)argument(arguments, call->rest));
		record->flags = how.flags;
		record->mode = how.mode;
	}
	if (!(record->flags & O_CREAT))
		record->mode = 0;
	struct file *file = value >= 0 ? file_of(task, value) : NULL;
	if (file) {
		struct inode *inode = BPF_CORE_READ(file, f_inode);
		record->inode = BPF_CORE_READ(inode, i_ino);
		record->device = BPF_CORE_READ(inode, i_sb, s_dev);
		record->type = type_of(inode);
		record->created = !!(BPF_CORE_READ(file, f_mode) & FMODE_CREATED);
		append_own(&scratch->tail, &record->path, task, file);
	} else {
		record->type = FILE_OTHER;
		append_given(&scratch->tail, &record->path, directory_of(arguments, call->directory),
			     (void *)argument(arguments, call->path));
	}
	__u64 used = scratch->tail.used;
	if (used <= TAIL_BYTES)
		send(&record->header.start, RECORD_FILE_OPEN, sizeof(*record) + used);
	scratch->busy = 0;
	return 0;
}

/* What belongs to one kind of change alone. */
static __always_inline void fill_change(struct file_change_record *record, const volatile struct call *call,
					struct arguments *arguments)
{
	__u64 rest = argument(arguments, call->rest), next = argument(arguments, call->rest + 1);

	record->change = call->change;
	record->mode = record->uid = record->gid = UNCHANGED;
	switch (call->change) {
	case CHANGE_DELETE:
		if (call->form == FORM_AT_FLAGS && (rest & AT_REMOVEDIR))
			record->change = CHANGE_RMDIR;
		break;
	case CHANGE_MKDIR:
	case CHANGE_CHMOD:
		record->mode = rest & 07777;
		break;
	case CHANGE_CHOWN:
		record->uid = rest;
		record->gid = next;
		if (call->form == FORM_SHORT_IDS) {
			record->uid = (__u16)rest == SHORT_UNCHANGED ? UNCHANGED : (__u16)rest;
			record->gid = (__u16)next == SHORT_UNCHANGED ? UNCHANGED : (__u16)next;
		}
		break;
	case CHANGE_TRUNCATE:
		record->size = call->form == FORM_SPLIT_SIZE ? (__u32)rest | next << 32 : rest;
		break;
	}
}

static __always_inline int on_change(const volatile struct call *call, struct arguments *arguments, long value)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (!wanted(RECORD_FILE_CHANGE) || narrowed_out(task))
		return 0;
	struct file *file = call->fd ? file_of(task, argument(arguments, call->fd)) : NULL;
	if (call->fd && !file)
		return 0; /* No file, so none that was to be changed. */
	struct scratch *scratch = take_scratch(RECORD_FILE_CHANGE);
	if (!scratch)
		return 0;
	struct file_change_record *record = &scratch->change;
	__builtin_memset(record, 0, sizeof(*record));
	fill_task(&record->header.task, task);
	record->error = seen_error(value);
	fill_change(record, call, arguments);
	if (file)
		append_own(&scratch->tail, &record->path, task, file);
	else
		append_given(&scratch->tail, &record->path, directory_of(arguments, call->directory),
			     (void *)argument(arguments, call->path));
	if (call->other_path) {
		/* A symbolic link's text is no path of its maker's. */
		int directory = call->change == CHANGE_SYMLINK ? -1 : directory_of(arguments, call->other_directory);
		append_given(&scratch->tail, &record->other_path, directory, (void *)argument(arguments, call->other_path));
	}
	__u64 used = scratch->tail.used;
	if (used <= TAIL_BYTES)
		send(&record->header.start, RECORD_FILE_CHANGE, sizeof(*record) + used);
	scratch->busy = 0;
	return 0;
}

static __always_inline void read_arguments(struct arguments *to, struct pt_regs *regs, __u32 abi)
{
	bool compat = abi == ABI_COMPAT;

	to->values[0] = to->values[7] = 0;
	to->values[1] = compat ? (__u32)BPF_CORE_READ(regs, bx) : BPF_CORE_READ(regs, di);
	to->values[2] = compat ? (__u32)BPF_CORE_READ(regs, cx) : BPF_CORE_READ(regs, si);
	to->values[3] = compat ? (__u32)BPF_CORE_READ(regs, dx) : BPF_CORE_READ(regs, dx);
	to->values[4] = compat ? (__u32)BPF_CORE_READ(regs, si) : BPF_CORE_READ(regs, r10);
	to->values[5] = compat ? (__u32)BPF_CORE_READ(regs, di) : BPF_CORE_READ(regs, r8);
	to->values[6] = compat ? (__u32)BPF_CORE_READ(regs, bp) : BPF_CORE_READ(regs, r9);
}

/* What is known of a call that returns; NULL where it is none of those looked at. */
static __always_inline const volatile struct call *returned(struct pt_regs *regs, long number, __u32 *abi)
{
	*abi = abi_of((void *)bpf_get_current_task(), &number);
	return regs ? call_of(*abi, number) : NULL;
}

static __always_inline int on_path(const volatile struct call *call, struct pt_regs *regs, __u32 abi, long value)
{
	struct arguments arguments;

	read_arguments(&arguments, regs, abi);
	return call->does == DOES_OPEN ? on_open(call, &arguments, value) : on_change(call, &arguments, value);
}

static __always_inline bool does_io(const volatile struct call *call)
{
	return call->does == DOES_READ || call->does == DOES_WRITE;
}

static __always_inline int on_return(struct pt_regs *regs, long number, long value)
{
	__u32 abi;
	const volatile struct call *call = returned(regs, number, &abi);

	if (!call)
		return 0;
	if (does_io(call)) {
		__u32 fd = abi == ABI_COMPAT ? BPF_CORE_READ(regs, bx) : BPF_CORE_READ(regs, di);
		struct file *file = file_of((void *)bpf_get_current_task(), fd);
		if (!file && value == -EBADF)
			return 0; /* Nothing was read or written of anything. */
		return on_io(file, call->does == DOES_READ ? FILE_READ : FILE_WRITE, value);
	}
	return on_path(call, regs, abi, value);
}

SEC("fexit/vfs_read")
int BPF_PROG(read_exit, struct file *file, void *to, __u64 count, void *position, long value)
{
	return on_io(file, FILE_READ, value);
}

SEC("fexit/vfs_write")
int BPF_PROG(write_exit, struct file *file, void *from, __u64 count, void *position, long value)
{
	return on_io(file, FILE_WRITE, value);
}

SEC("fexit/vfs_readv")
int BPF_PROG(readv_exit, struct file *file, void *to, __u64 count, void *position, __u64 flags, long value)
{
	return on_io(file, FILE_READ, value);
}

SEC("fexit/vfs_writev")
int BPF_PROG(writev_exit, struct file *file, void *from, __u64 count, void *position, __u64 flags, long value)
{
	return on_io(file, FILE_WRITE, value);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(paths_btf, struct pt_regs *regs, long value)
{
	__u32 abi;
	const volatile struct call *call = returned(regs, BPF_CORE_READ(regs, orig_ax), &abi);

	return call && !does_io(call) ? on_path(call, regs, abi, value) : 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(return_btf, struct pt_regs *regs, long value)
{
	return on_return(regs, BPF_CORE_READ(regs, orig_ax), value);
}

SEC("raw_tp/sys_exit")
int BPF_PROG(return_raw, struct pt_regs *regs, long value)
{
	return on_return(regs, BPF_CORE_READ(regs, orig_ax), value);
}

SEC("tp/raw_syscalls/sys_exit")
int return_tp(struct trace_event_raw_sys_exit *event)
{
	return on_return(registers_of((void *)bpf_get_current_task()), event->id, event->ret);
}
