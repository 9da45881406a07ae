/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Records of the source seccomp. See wit/seccomp.wit for what the fields mean. */
#ifndef EUNOMIA_SECCOMP_H
#define EUNOMIA_SECCOMP_H

#include "eunomia.h"

/* As the cases of enum action in wit/seccomp.wit. */
enum seccomp_did {
	SECCOMP_ERRNO = 0,
	SECCOMP_TRAP = 1,
	SECCOMP_KILL_PROCESS = 2,
	SECCOMP_KILL_THREAD = 3,
	SECCOMP_LOG = 4,
	SECCOMP_TRACE = 5,
	SECCOMP_USER_NOTIF = 6,
};

struct seccomp_record {
	struct record_header header;
	__u32 number;
	__u32 abi; /* enum syscall_abi */
	__u32 action; /* enum seccomp_did */
	__u32 code; /* the errno, or the signal; 0: neither */
};

#endif
