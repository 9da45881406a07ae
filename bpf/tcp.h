/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Records of the source tcp. See wit/tcp.wit for what the fields mean. */
#ifndef EUNOMIA_TCP_H
#define EUNOMIA_TCP_H

#include "eunomia.h"

/* One layout for connect, accept and close; each uses what it needs. Addresses are IPv6 or mapped into it. */
struct tcp_record {
	struct record_header header;
	__u64 sent_bytes;
	__u64 received_bytes;
	__u64 duration; /* ns */
	__u8 source_address[16];
	__u8 destination_address[16];
	__u32 source_port;
	__u32 destination_port;
	__u32 net_ns;
	__u32 error;
	__u32 incoming; /* 1: accepted, 0: connected */
	__u32 is_ipv6;
};

#endif
