/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Limits of the paths in records. */
#ifndef EUNOMIA_PATH_H
#define EUNOMIA_PATH_H

/* Each path is cut here: the kernel's PATH_MAX. */
#define PATH_BYTES 4096

/* A path's names beyond this depth are cut. */
#define PATH_DEPTH 64

/* A name's longest form, its end included. */
#define NAME_BYTES 256

/* What is known of a file besides its path, as bits. */
enum file_trait {
	FILE_MEMFD = 1 << 0,
	FILE_DELETED = 1 << 1,
	FILE_OVERLAY = 1 << 2, /* it is on an overlay file system */
	FILE_UPPER = 1 << 3, /* and in its upper layer */
	FILE_NAMELESS = 1 << 4, /* it is in no directory: its one name is its kind's, as a socket's TCP */
};

#endif
