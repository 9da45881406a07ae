/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Records of the source cgroup. See wit/cgroup.wit for what the fields mean. */
#ifndef EUNOMIA_CGROUP_H
#define EUNOMIA_CGROUP_H

#include "eunomia.h"

/* A cgroup's path is cut here: the kernel's PATH_MAX. */
#define CGROUP_PATH_BYTES 4096

/* Behind it stands the path, path_length bytes. */
struct cgroup_record {
	struct record_header header;
	__u64 id;
	__u32 level;
	__u32 hierarchy;
	__u32 path_length;
	__u32 padding;
};

#endif
