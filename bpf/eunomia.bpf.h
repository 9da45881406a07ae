/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every source's programs share: the ring, its counters, narrowing, and who the current task is. */
#ifndef EUNOMIA_BPF_H
#define EUNOMIA_BPF_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "eunomia.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The most pids, names or users that one run can be narrowed to. */
#define NARROWING_ENTRIES 1024

struct ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
};

/*
 * Where records are put: one ring, or where they come by the million one for each CPU, or else CPUs would wait for each other. The
 * host sets their number before loading, and puts them here before anything is attached.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct ring);
} rings SEC(".maps");

/* What of a CPU's number says which ring is its own. */
const volatile __u32 ring_mask SEC(".rodata.rings");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RECORD_KINDS);
	__type(key, __u32);
	__type(value, struct record_counts);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CONTROL_KEYS);
	__type(key, __u32);
	__type(value, __u64);
} control SEC(".maps");

/* In a section of its own, which the host finds by name, whatever other constants a source has. */
const volatile struct narrowing narrowing SEC(".rodata.narrowing");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, NARROWING_ENTRIES);
	__type(key, __u32);
	__type(value, __u8);
} only_pids SEC(".maps"), only_uids SEC(".maps");

/* How far up from a task's own cgroup is looked; containers of Kubernetes are at 5 to 7 below the root. */
#define CGROUP_DEPTH 16

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, NARROWING_ENTRIES);
	__type(key, __u64);
	__type(value, __u8);
} only_cgroups SEC(".maps");

struct comm_key {
	char comm[COMM_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, NARROWING_ENTRIES);
	__type(key, struct comm_key);
	__type(value, __u8);
} only_comms SEC(".maps");

/* Whom plugins that are narrowed want, all together: a plugin for each of a thousand cgroups, and some more. */
#define WHOSE_ENTRIES 4096

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WHOSE_ENTRIES);
	__type(key, struct whose_key);
	__type(value, __u8);
} of_plugins SEC(".maps");

/*
 * Whether the kernel (5.11 and later) hands out the current task as what it is, so that its fields are read as plain memory: a
 * fraction of what a probe's read costs.
 */
static __always_inline bool has_task_btf(void)
{
	return bpf_core_enum_value_exists(enum bpf_func_id___known, BPF_FUNC_get_current_task_btf___known);
}

static __always_inline bool wanted(enum record_kind kind)
{
	__u32 key = CONTROL_WANTED;
	__u64 *bits = bpf_map_lookup_elem(&control, &key);
	return bits && (*bits & (1ULL << kind));
}

/* Which of its two maps a source sums into now: the host reads the other. */
static __always_inline bool sums_into_second(void)
{
	__u32 key = CONTROL_SUMS;
	__u64 *which = bpf_map_lookup_elem(&control, &key);
	return which && *which;
}

/* Whether the current task is in one of the cgroups wanted, or below one, or in one so new that this is not known. */
static __always_inline bool in_wanted_cgroup(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	__u8 *verdict;

	/* Not by bpf_get_current_ancestor_cgroup_id, which programs on tracepoints do not have on 5.10. */
	for (int height = 0; height < CGROUP_DEPTH && cgroup; height++) {
		__u64 id = BPF_CORE_READ(cgroup, kn, id);
		verdict = bpf_map_lookup_elem(&only_cgroups, &id);
		if (verdict && *verdict == CGROUP_WANTED)
			return true;
		/* A cgroup begins with its own state. */
		cgroup = (struct cgroup *)BPF_CORE_READ(cgroup, self.parent);
	}
	if (!narrowing.judges)
		return false;
	__u64 own = bpf_get_current_cgroup_id();
	return !bpf_map_lookup_elem(&only_cgroups, &own);
}

/* Whether some plugin that is narrowed may want the events of the task. The host knows exactly. */
static __always_inline bool of_some_plugin(struct task_struct *task, __u64 narrowed_by)
{
	struct whose_key key = {};

	if (narrowed_by & (1 << WHOSE_PID)) {
		key.whose = WHOSE_PID;
		key.value[0] = bpf_get_current_pid_tgid() >> 32;
		if (bpf_map_lookup_elem(&of_plugins, &key))
			return true;
	}
	if (narrowed_by & (1 << WHOSE_UID)) {
		key.whose = WHOSE_UID;
		key.value[0] = BPF_CORE_READ(task, real_cred, uid.val);
		if (bpf_map_lookup_elem(&of_plugins, &key))
			return true;
	}
	if (narrowed_by & (1 << WHOSE_CGROUP)) {
		struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);

		key.whose = WHOSE_CGROUP;
		for (int height = 0; height < CGROUP_DEPTH && cgroup; height++) {
			key.value[0] = BPF_CORE_READ(cgroup, kn, id);
			if (bpf_map_lookup_elem(&of_plugins, &key))
				return true;
			cgroup = (struct cgroup *)BPF_CORE_READ(cgroup, self.parent);
		}
	}
	if (narrowed_by & (1 << WHOSE_COMM)) {
		key.whose = WHOSE_COMM;
		key.value[0] = 0;
		bpf_probe_read_kernel_str(key.value, sizeof(key.value), &task->comm);
		if (bpf_map_lookup_elem(&of_plugins, &key))
			return true;
	}
	return false;
}

/* For the current task, or the leader of its process. */
static __always_inline bool narrowed_out(struct task_struct *task)
{
	if (narrowing.exclude_pids[0] || narrowing.pids) {
		__u32 pid = bpf_get_current_pid_tgid() >> 32;
		if (pid == narrowing.exclude_pids[0] || pid == narrowing.exclude_pids[1])
			return true;
		if (narrowing.pids && !bpf_map_lookup_elem(&only_pids, &pid))
			return true;
	}
	if (narrowing.uids) {
		__u32 uid = BPF_CORE_READ(task, real_cred, uid.val);
		if (!bpf_map_lookup_elem(&only_uids, &uid))
			return true;
	}
	if (narrowing.cgroups && !in_wanted_cgroup())
		return true;
	if (narrowing.comms) {
		struct comm_key key = {};
		BPF_CORE_READ_STR_INTO(&key.comm, task, comm);
		if (!bpf_map_lookup_elem(&only_comms, &key))
			return true;
	}
	__u32 row = CONTROL_PLUGINS;
	__u64 *narrowed_by = bpf_map_lookup_elem(&control, &row);
	return narrowed_by && *narrowed_by && !of_some_plugin(task, *narrowed_by);
}

/* The pid namespace that the task itself is in, which is not always the one for its children. */
static __always_inline __u32 pid_namespace_of(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	unsigned int level = BPF_CORE_READ(pid, level);
	struct upid *upid = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
			    level * bpf_core_type_size(struct upid);
	return BPF_CORE_READ(upid, ns, ns.inum);
}

static __always_inline void fill_task(struct record_task *to, struct task_struct *task)
{
	to->start_time = BPF_CORE_READ(task, group_leader, start_boottime);
	to->cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	to->pid = BPF_CORE_READ(task, tgid);
	to->tid = BPF_CORE_READ(task, pid);
	to->ppid = BPF_CORE_READ(task, real_parent, tgid);
	to->uid = BPF_CORE_READ(task, real_cred, uid.val);
	to->gid = BPF_CORE_READ(task, real_cred, gid.val);
	to->pid_ns = pid_namespace_of(task);
	to->mnt_ns = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
	to->user_ns = BPF_CORE_READ(task, real_cred, user_ns, ns.inum);
	BPF_CORE_READ_STR_INTO(&to->comm, task, comm);
}

/* A name's half without what stands behind its NUL, if there is one: bytes of longer names, on kernels before 5.17. */
static __always_inline __u64 up_to_nul(__u64 half)
{
	__u64 nul = (half - 0x0101010101010101ULL) & ~half & 0x8080808080808080ULL;

	return half & ((nul & -nul) - 1);
}

/* The name of a task that may be read as plain memory. */
static __always_inline void copy_comm(char *to, const char *comm)
{
	__u64 low = *(__u64 *)comm, kept = up_to_nul(low);

	*(__u64 *)to = kept;
	*(__u64 *)(to + 8) = kept == low && (low >> 56) ? up_to_nul(*(__u64 *)(comm + 8)) : 0;
}

/* The current task in a flat record, which has these fields by themselves. */
#define FILL_FLAT(flat, task)                                                                                          \
	do {                                                                                                           \
		if (has_task_btf()) {                                                                                  \
			struct task_struct *self = bpf_get_current_task_btf();                                         \
			(flat)->start_time = self->group_leader->start_boottime;                                       \
			(flat)->ppid = self->real_parent->tgid;                                                        \
			(flat)->pid = self->tgid;                                                                      \
			(flat)->tid = self->pid;                                                                       \
			(flat)->uid = self->cred->uid.val;                                                             \
			(flat)->gid = self->cred->gid.val;                                                             \
			(flat)->cgroup = self->cgroups->dfl_cgrp->kn->id;                                              \
			copy_comm((flat)->comm, self->comm);                                                           \
		} else {                                                                                               \
			__u64 ids = bpf_get_current_pid_tgid(), owner = bpf_get_current_uid_gid();                     \
			(flat)->start_time = BPF_CORE_READ(task, group_leader, start_boottime);                        \
			(flat)->ppid = BPF_CORE_READ(task, real_parent, tgid);                                         \
			(flat)->pid = ids >> 32;                                                                       \
			(flat)->tid = ids;                                                                             \
			(flat)->uid = owner;                                                                           \
			(flat)->gid = owner >> 32;                                                                     \
			(flat)->cgroup = bpf_get_current_cgroup_id();                                                  \
			bpf_get_current_comm((flat)->comm, COMM_BYTES);                                                \
		}                                                                                                      \
	} while (0)

/* Another program of the kind may interrupt this one on the same CPU, in the middle of an addition. */
static __always_inline void count(__u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

/*
 * Sends a record. Its time is taken as late as possible, so that records enter the ring nearly in time order. The
 * reader is woken only if it sleeps: while events come it looks by itself.
 */
static __always_inline void send(struct record_start *start, enum record_kind kind, __u64 length)
{
	__u32 row = kind, key = CONTROL_READER_ASLEEP, which = bpf_get_smp_processor_id() & ring_mask;
	struct record_counts *counts = bpf_map_lookup_elem(&counters, &row);
	__u64 *asleep = bpf_map_lookup_elem(&control, &key);
	void *ring = bpf_map_lookup_elem(&rings, &which);
	__u64 flags = BPF_RB_NO_WAKEUP;

	if (!counts || !asleep || !ring)
		return;
	if (*asleep) {
		*asleep = 0;
		flags = BPF_RB_FORCE_WAKEUP;
	}
	start->kind = kind;
	start->length = length;
	start->time = bpf_ktime_get_boot_ns();
	if (bpf_ringbuf_output(ring, start, length, flags) == 0)
		count(&counts->sent);
	else
		count(&counts->dropped);
}

/* An event for which there was no room outside the ring. */
static __always_inline void count_dropped(enum record_kind kind)
{
	__u32 row = kind;
	struct record_counts *counts = bpf_map_lookup_elem(&counters, &row);
	if (counts)
		count(&counts->dropped);
}

static __always_inline void count_nested(enum record_kind kind)
{
	__u32 row = kind;
	struct record_counts *counts = bpf_map_lookup_elem(&counters, &row);
	if (counts)
		count(&counts->nested);
}

#endif
