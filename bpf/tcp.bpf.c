// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Source tcp: connections made, accepted and ended. Mostly from the changes of sockets' states. The change to ESTABLISHED
 * of a passive socket runs in nobody's context: who accepted it is known from security_sock_graft, which every way of
 * accepting calls, or on tracepoints alone from the accept call's return. What becomes of a connect before a packet is
 * sent is known from tcp_v4_connect and tcp_v6_connect.
 */
#include "syscall_abi.bpf.h"
#include "tcp.h"

/* Connections followed at the same time. */
#define CONNECTIONS 65536

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define ECONNABORTED 103

/* In sock_common.skc_flags: the other side's FIN has come. */
#define SOCK_DONE (1 << 1)

#define NR_ACCEPT 43
#define NR_ACCEPT4 288
#define NR_COMPAT_ACCEPT4 364

enum tcp_state {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT = 2,
	TCP_SYN_RECV = 3,
	TCP_CLOSE = 7,
};

struct connection {
	struct record_task task;
	__u64 begun; /* when it was asked for, then when it was established */
	__u32 established;
	__u32 incoming;
	__u32 owned; /* task is known */
	__u32 connecting; /* within tcp_v4_connect or tcp_v6_connect, whose return tells how it ended */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CONNECTIONS);
	__type(key, __u64);
	__type(value, struct connection);
} connections SEC(".maps");

struct connect_args {
	struct sock *sk;
	struct sockaddr_in6 *to;
};

/* Threads within a connect, for kretprobes, which know no arguments. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct connect_args);
} connects SEC(".maps");

static __always_inline void map_ipv4(__u8 to[16], __be32 address)
{
	to[10] = 0xff;
	to[11] = 0xff;
	__builtin_memcpy(to + 12, &address, sizeof(address));
}

static __always_inline void fill_ends(struct tcp_record *record, struct sock *sk)
{
	struct inet_sock *inet = (void *)sk;

	record->source_port = __builtin_bswap16(BPF_CORE_READ(inet, inet_sport));
	record->destination_port = __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport));
	record->net_ns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6) {
		record->is_ipv6 = 1;
		BPF_CORE_READ_INTO(&record->source_address, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&record->destination_address, sk, __sk_common.skc_v6_daddr);
	} else {
		map_ipv4(record->source_address, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
		map_ipv4(record->destination_address, BPF_CORE_READ(sk, __sk_common.skc_daddr));
	}
}

/* Where to, as the caller asked: a connect that fails early leaves nothing in the socket. */
static __always_inline void fill_destination(struct tcp_record *record, struct sock *sk, struct sockaddr_in6 *to)
{
	record->destination_port = __builtin_bswap16(BPF_CORE_READ(to, sin6_port));
	if (BPF_CORE_READ(to, sin6_family) == AF_INET6) {
		record->is_ipv6 = 1;
		BPF_CORE_READ_INTO(&record->destination_address, to, sin6_addr);
	} else {
		/* Perhaps of an IPv6 socket, with an address mapped in IPv6. */
		record->is_ipv6 = 0;
		__builtin_memset(record->source_address, 0, sizeof(record->source_address));
		__builtin_memset(record->destination_address, 0, sizeof(record->destination_address));
		map_ipv4(record->source_address, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
		map_ipv4(record->destination_address, BPF_CORE_READ((struct sockaddr_in *)to, sin_addr.s_addr));
	}
}

static __always_inline void send_tcp(struct sock *sk, struct connection *connection, enum record_kind kind, __u32 error,
				     struct sockaddr_in6 *to)
{
	struct tcp_record record = {};

	if (!wanted(kind))
		return;
	record.header.task = connection->task;
	fill_ends(&record, sk);
	if (to)
		fill_destination(&record, sk, to);
	record.error = error;
	record.incoming = connection->incoming;
	record.duration = bpf_ktime_get_boot_ns() - connection->begun;
	if (kind == RECORD_TCP_CLOSE) {
		struct tcp_sock *tcp = (void *)sk;
		record.sent_bytes = BPF_CORE_READ(tcp, bytes_sent) - BPF_CORE_READ(tcp, bytes_retrans);
		record.received_bytes = BPF_CORE_READ(tcp, bytes_received);
		/* The kernel counts the other side's FIN as a byte. */
		if (BPF_CORE_READ(sk, __sk_common.skc_flags) & SOCK_DONE)
			record.received_bytes--;
	}
	send(&record.header.start, kind, sizeof(record));
}

/* Another connection cannot be followed: none of its events will come. */
static __always_inline void count_unfollowed(bool incoming)
{
	count_dropped(incoming ? RECORD_TCP_ACCEPT : RECORD_TCP_CONNECT);
	if (wanted(RECORD_TCP_CLOSE))
		count_dropped(RECORD_TCP_CLOSE);
}

/* From now on it is followed, as one of the current task. */
static __always_inline void follow_connect(struct sock *sk, bool connecting)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct connection first = {};
	__u64 key = (__u64)sk;

	if (narrowed_out(task))
		return;
	fill_task(&first.task, task);
	first.begun = bpf_ktime_get_boot_ns();
	first.owned = true;
	first.connecting = connecting;
	if (bpf_map_update_elem(&connections, &key, &first, BPF_ANY))
		count_unfollowed(false);
}

/* A connect has ended. Without an error, what becomes of it is told by the socket's states. */
static __always_inline int on_connected(struct sock *sk, struct sockaddr_in6 *to, int error)
{
	__u64 key = (__u64)sk;
	struct connection *known = bpf_map_lookup_elem(&connections, &key);

	/* A connect to an IPv4 address mapped in IPv6 is one within another: the inner one has told. */
	if (!known || !known->connecting)
		return 0;
	known->connecting = false;
	if (error) {
		send_tcp(sk, known, RECORD_TCP_CONNECT, -error, to);
		bpf_map_delete_elem(&connections, &key);
	}
	return 0;
}

static __always_inline int on_state(struct sock *sk, int before, int now)
{
	struct connection *known, first = {};
	__u64 key = (__u64)sk;

	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	known = bpf_map_lookup_elem(&connections, &key);
	if (now == TCP_SYN_SENT) {
		/* In the context of who connects. */
		if (!known || !known->connecting)
			follow_connect(sk, false);
		return 0;
	}
	if (before == TCP_SYN_RECV && now == TCP_ESTABLISHED) {
		first.begun = bpf_ktime_get_boot_ns();
		first.established = true;
		first.incoming = true;
		if (bpf_map_update_elem(&connections, &key, &first, BPF_ANY))
			count_unfollowed(true);
		return 0;
	}
	if (!known)
		return 0;
	if (known->connecting) {
		/* Its return will tell; unless it was missed, and this is another time. */
		if (now == TCP_CLOSE && known->task.tid == (__u32)bpf_get_current_pid_tgid())
			return 0;
		known->connecting = false;
	}
	if (before == TCP_SYN_SENT && now == TCP_ESTABLISHED) {
		send_tcp(sk, known, RECORD_TCP_CONNECT, 0, NULL);
		known->begun = bpf_ktime_get_boot_ns();
		known->established = true;
	} else if (now == TCP_CLOSE) {
		if (known->established && known->owned) {
			send_tcp(sk, known, RECORD_TCP_CLOSE, 0, NULL);
		} else if (!known->incoming) {
			/* Without an error it was the process that gave up. */
			__u32 error = BPF_CORE_READ(sk, sk_err);
			send_tcp(sk, known, RECORD_TCP_CONNECT, error ? error : ECONNABORTED, NULL);
		}
		bpf_map_delete_elem(&connections, &key);
	}
	return 0;
}

/* The current task accepts a connection. Only what was seen being established: it may be another kind of socket. */
static __always_inline int on_accepted(struct sock *sk)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 key = (__u64)sk;
	struct connection *known = bpf_map_lookup_elem(&connections, &key);

	if (!known || known->owned || !known->incoming)
		return 0;
	if (narrowed_out(task)) {
		bpf_map_delete_elem(&connections, &key);
		return 0;
	}
	fill_task(&known->task, task);
	known->owned = true;
	send_tcp(sk, known, RECORD_TCP_ACCEPT, 0, NULL);
	return 0;
}

/* The return of an accept call: the new descriptor leads to the socket. */
static __always_inline int on_return(long number, long fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	bool compat = abi_of(task, &number) == ABI_COMPAT;

	if (compat ? number != NR_COMPAT_ACCEPT4 : number != NR_ACCEPT && number != NR_ACCEPT4)
		return 0;
	if (fd < 0)
		return 0;
	struct file *file = file_of(task, fd);
	struct socket *socket = BPF_CORE_READ(file, private_data);
	return on_accepted(BPF_CORE_READ(socket, sk));
}

SEC("fentry/tcp_v4_connect")
int BPF_PROG(connect4_enter, struct sock *sk)
{
	follow_connect(sk, true);
	return 0;
}

SEC("fexit/tcp_v4_connect")
int BPF_PROG(connect4_exit, struct sock *sk, struct sockaddr_in6 *to, int length, int error)
{
	return on_connected(sk, to, error);
}

SEC("fentry/tcp_v6_connect")
int BPF_PROG(connect6_enter, struct sock *sk)
{
	follow_connect(sk, true);
	return 0;
}

SEC("fexit/tcp_v6_connect")
int BPF_PROG(connect6_exit, struct sock *sk, struct sockaddr_in6 *to, int length, int error)
{
	return on_connected(sk, to, error);
}

SEC("fentry/security_sock_graft")
int BPF_PROG(accepted_enter, struct sock *sk)
{
	return on_accepted(sk);
}

static __always_inline int on_connect_kprobe(struct sock *sk, struct sockaddr_in6 *to)
{
	struct connect_args args = { .sk = sk, .to = to };
	__u32 tid = bpf_get_current_pid_tgid();

	bpf_map_update_elem(&connects, &tid, &args, BPF_ANY);
	follow_connect(sk, true);
	return 0;
}

static __always_inline int on_connect_kretprobe(int error)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct connect_args *args = bpf_map_lookup_elem(&connects, &tid);

	return args ? on_connected(args->sk, args->to, error) : 0;
}

SEC("kprobe/tcp_v4_connect")
int BPF_KPROBE(connect4_kprobe, struct sock *sk, struct sockaddr_in6 *to)
{
	return on_connect_kprobe(sk, to);
}

SEC("kretprobe/tcp_v4_connect")
int BPF_KRETPROBE(connect4_kretprobe, int error)
{
	return on_connect_kretprobe(error);
}

SEC("kprobe/tcp_v6_connect")
int BPF_KPROBE(connect6_kprobe, struct sock *sk, struct sockaddr_in6 *to)
{
	return on_connect_kprobe(sk, to);
}

SEC("kretprobe/tcp_v6_connect")
int BPF_KRETPROBE(connect6_kretprobe, int error)
{
	return on_connect_kretprobe(error);
}

SEC("kprobe/security_sock_graft")
int BPF_KPROBE(accepted_kprobe, struct sock *sk)
{
	return on_accepted(sk);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(state_btf, struct sock *sk, int before, int now)
{
	return on_state(sk, before, now);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(return_btf, struct pt_regs *regs, long value)
{
	return on_return(BPF_CORE_READ(regs, orig_ax), value);
}

SEC("raw_tp/inet_sock_set_state")
int BPF_PROG(state_raw, struct sock *sk, int before, int now)
{
	return on_state(sk, before, now);
}

SEC("raw_tp/sys_exit")
int BPF_PROG(return_raw, struct pt_regs *regs, long value)
{
	return on_return(BPF_CORE_READ(regs, orig_ax), value);
}

SEC("tp/sock/inet_sock_set_state")
int state_tp(struct trace_event_raw_inet_sock_set_state *event)
{
	return on_state((void *)event->skaddr, event->oldstate, event->newstate);
}

SEC("tp/raw_syscalls/sys_exit")
int return_tp(struct trace_event_raw_sys_exit *event)
{
	return on_return(event->id, event->ret);
}
