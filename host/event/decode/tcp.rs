//! Records of the source tcp.

use std::net::{IpAddr, Ipv6Addr};

use super::{Clock, DecodeError, fixed};
use crate::event::layout::c::tcp_record;
use crate::wit::tcp::{Direction, Endpoints, Family, TcpAccept, TcpClose, TcpConnect};
use crate::wit::types::Task;

/// What the three kinds have in common.
struct Connection {
    time: u64,
    task: Task,
    endpoints: Endpoints,
    error: u32,
    direction: Direction,
    sent_bytes: u64,
    received_bytes: u64,
    duration: u64,
}

fn connection(bytes: &[u8], clock: &Clock) -> Result<Connection, DecodeError> {
    let tcp_record {
        header,
        sent_bytes,
        received_bytes,
        duration,
        source_address,
        destination_address,
        source_port,
        destination_port,
        net_ns,
        error,
        incoming,
        is_ipv6: _, // An IPv4 address that is mapped in IPv6 counts as IPv4.
    } = fixed(bytes)?;
    let (time, task) = super::header(&header, clock);
    let address = |bytes: [u8; 16]| Ipv6Addr::from(bytes).to_canonical();
    let (source, destination) = (address(source_address), address(destination_address));
    let ipv4 = matches!((source, destination), (IpAddr::V4(_), IpAddr::V4(_)));
    let port = |port: u32| u16::try_from(port).map_err(|_| DecodeError::UnknownValue("port"));
    let endpoints = Endpoints {
        family: if ipv4 { Family::Ipv4 } else { Family::Ipv6 },
        source_address: source.to_string(),
        source_port: port(source_port)?,
        destination_address: destination.to_string(),
        destination_port: port(destination_port)?,
        net_ns,
    };
    let direction = if incoming == 0 { Direction::Outgoing } else { Direction::Incoming };
    Ok(Connection { time, task, endpoints, error, direction, sent_bytes, received_bytes, duration })
}

/// A connection was made, or failed.
pub fn tcp_connect(bytes: &[u8], clock: &Clock) -> Result<TcpConnect, DecodeError> {
    let Connection { time, task, endpoints, error, duration, .. } = connection(bytes, clock)?;
    Ok(TcpConnect { time, task, endpoints, error, duration })
}

/// A connection was accepted.
pub fn tcp_accept(bytes: &[u8], clock: &Clock) -> Result<TcpAccept, DecodeError> {
    let Connection { time, task, endpoints, .. } = connection(bytes, clock)?;
    Ok(TcpAccept { time, task, endpoints })
}

/// A connection ended.
pub fn tcp_close(bytes: &[u8], clock: &Clock) -> Result<TcpClose, DecodeError> {
    let Connection { time, task, endpoints, error: _, direction, sent_bytes, received_bytes, duration } =
        connection(bytes, clock)?;
    Ok(TcpClose { time, task, endpoints, direction, sent_bytes, received_bytes, duration })
}
