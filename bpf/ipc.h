/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Records of the source ipc. See wit/ipc.wit for what the fields mean. */
#ifndef EUNOMIA_IPC_H
#define EUNOMIA_IPC_H

#include "eunomia.h"

/* As the cases of enum object-kind in wit/ipc.wit. */
enum ipc_object {
	IPC_SHM = 0,
	IPC_MSG = 1,
	IPC_SEM = 2,
};

struct ipc_record {
	struct record_header header;
	__u32 object; /* enum ipc_object */
	__s32 key;
	__s32 id;
	__u32 permission;
	__u32 known; /* 1: id and the owners are set */
	__u32 uid;
	__u32 gid;
	__u32 creator_uid;
	__u32 creator_gid;
	__u32 denied;
};

#endif
