//! How events are read from the kernel: how often, and from rings of what size.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::event::Kind;

/// How long an event may wait for others unless somebody says otherwise: in a flood some thousand come meanwhile.
const LATENCY_MS: u64 = 1;

/// Longer ones would have rings overflow that are read too seldom.
const MAX_LATENCY_MS: u64 = 1_000;

/// The smallest and largest size of a source's rings: a page, and what a kernel gives in one piece.
const RING_BYTES: std::ops::RangeInclusive<u64> = 1 << 16..=1 << 30;

/// How long an event may wait for others.
pub(super) fn latency(ms: Option<u64>) -> Result<Duration> {
    let ms = ms.unwrap_or(LATENCY_MS);
    ensure!(
        (1..=MAX_LATENCY_MS).contains(&ms),
        "--latency-ms {ms}: events wait 1 to {MAX_LATENCY_MS} ms for others; with more, ring buffers overflow"
    );
    Ok(Duration::from_millis(ms))
}

/// Sizes of rings by source: those of the configuration, and those of the command line in their place. The kernel takes powers of
/// two, so each is made the next one.
pub(super) fn ring_bytes(mut sizes: BTreeMap<String, u64>, more: &[String]) -> Result<BTreeMap<String, u32>> {
    for argument in more {
        let (source, size) = argument
            .split_once('=')
            .with_context(|| format!("--ring-bytes {argument}: write SOURCE=SIZE, such as syscall=64M"))?;
        let size = bytes(size).with_context(|| {
            format!("--ring-bytes {argument}: '{size}' is no size; write bytes, or a number with K, M or G")
        })?;
        sizes.insert(source.to_owned(), size);
    }
    sizes.into_iter().map(|(source, size)| Ok((known(source)?, checked(size)?))).collect()
}

fn bytes(size: &str) -> Option<u64> {
    let shift = match size.chars().last()? {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        _ => 0,
    };
    let number: u64 = size.trim_end_matches(['K', 'M', 'G']).parse().ok()?;
    number.checked_mul(1 << shift)
}

fn known(source: String) -> Result<String> {
    let mut sources: Vec<&str> =
        Kind::ALL.iter().filter(|kind| kind.record_number().is_some()).map(|kind| kind.source()).collect();
    sources.dedup();
    ensure!(
        sources.contains(&source.as_str()),
        "no source is called '{source}', whose ring buffers have a size; the sources are {}",
        sources.join(", ")
    );
    Ok(source)
}

fn checked(size: u64) -> Result<u32> {
    ensure!(
        RING_BYTES.contains(&size),
        "ring buffers of {size} bytes: a source's take from {} to {} bytes together",
        RING_BYTES.start(),
        RING_BYTES.end()
    );
    Ok(u32::try_from(size.next_power_of_two())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(arguments: &[&str]) -> Result<BTreeMap<String, u32>> {
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        ring_bytes(BTreeMap::from([("tcp".to_owned(), 1 << 16)]), &arguments)
    }

    #[test]
    fn sizes_of_rings_are_powers_of_two_of_sources_that_there_are() {
        let set = sizes(&["syscall=60M", "process=65537"]).unwrap();
        assert_eq!((set["syscall"], set["process"], set["tcp"]), (64 << 20, 1 << 17, 1 << 16));
        assert_eq!(sizes(&["tcp=1G"]).unwrap()["tcp"], 1 << 30);
        for (argument, text) in [
            ("syscall", "SOURCE=SIZE"),
            ("syscall=big", "'big'"),
            ("syscall=M", "'M'"),
            ("syscalls=1M", "process, syscall, files"),
            ("host=1M", "'host'"),
            ("tcp=1K", "from 65536"),
            ("tcp=2G", "to 1073741824"),
            ("tcp=99999999999G", "no size"),
        ] {
            let error = sizes(&[argument]).unwrap_err().to_string();
            assert!(error.contains(text), "{argument}: {error}");
        }
    }

    #[test]
    fn events_wait_a_millisecond_unless_told_otherwise() {
        assert_eq!(latency(None).unwrap(), Duration::from_millis(1));
        assert_eq!(latency(Some(20)).unwrap(), Duration::from_millis(20));
        assert!(latency(Some(0)).is_err() && latency(Some(1_001)).is_err());
    }
}
