// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Source cgroup: control groups made and removed, in every tree. */
#include "eunomia.bpf.h"
#include "cgroup.h"

struct scratch {
	struct cgroup_record record;
	char path[CGROUP_PATH_BYTES];
	__u64 busy;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

static __always_inline int on_change(enum record_kind kind, __u64 id, __u32 level, __u32 hierarchy, const char *path)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 zero = 0;

	if (!wanted(kind) || narrowed_out(task))
		return 0;
	struct scratch *scratch = bpf_map_lookup_elem(&scratches, &zero);
	if (!scratch)
		return 0;
	if (scratch->busy) {
		count_nested(kind);
		return 0;
	}
	scratch->busy = 1;
	struct cgroup_record *record = &scratch->record;
	__builtin_memset(record, 0, sizeof(*record));
	fill_task(&record->header.task, task);
	record->id = id;
	record->level = level;
	record->hierarchy = hierarchy;
	long length = bpf_probe_read_kernel_str(scratch->path, sizeof(scratch->path), path);
	__u64 used = length > 0 ? length - 1 : 0;
	record->path_length = used;
	if (used < CGROUP_PATH_BYTES)
		send(&record->header.start, kind, sizeof(*record) + used);
	scratch->busy = 0;
	return 0;
}

static __always_inline int on_cgroup(enum record_kind kind, struct cgroup *cgroup, const char *path)
{
	__u32 hierarchy = BPF_CORE_READ(cgroup, root, hierarchy_id);
	return on_change(kind, BPF_CORE_READ(cgroup, kn, id), BPF_CORE_READ(cgroup, level), hierarchy, path);
}

static __always_inline int on_event(enum record_kind kind, struct trace_event_raw_cgroup *event)
{
	const char *path = (void *)event + (event->__data_loc_path & 0xffff);
	return on_change(kind, event->id, event->level, event->root, path);
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(created_btf, struct cgroup *cgroup, const char *path)
{
	return on_cgroup(RECORD_CGROUP_CREATED, cgroup, path);
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(removed_btf, struct cgroup *cgroup, const char *path)
{
	return on_cgroup(RECORD_CGROUP_REMOVED, cgroup, path);
}

SEC("raw_tp/cgroup_mkdir")
int BPF_PROG(created_raw, struct cgroup *cgroup, const char *path)
{
	return on_cgroup(RECORD_CGROUP_CREATED, cgroup, path);
}

SEC("raw_tp/cgroup_rmdir")
int BPF_PROG(removed_raw, struct cgroup *cgroup, const char *path)
{
	return on_cgroup(RECORD_CGROUP_REMOVED, cgroup, path);
}

SEC("tp/cgroup/cgroup_mkdir")
int created_tp(struct trace_event_raw_cgroup *event)
{
	return on_event(RECORD_CGROUP_CREATED, event);
}

SEC("tp/cgroup/cgroup_rmdir")
int removed_tp(struct trace_event_raw_cgroup *event)
{
	return on_event(RECORD_CGROUP_REMOVED, event);
}
