//! What must hold of any bytes: for the tests, and for cargo-fuzz.

use std::path::Path;

use eunomia_host::config::parse_settings;
use eunomia_host::event::clock::Clock;
use eunomia_host::event::{Columns, Kind, decode};

/// The decoder makes an event or an error. Whether it made an event.
pub fn decoder(bytes: &[u8]) -> bool {
    let mut columns = Columns::default();
    let is_event = decode(bytes, &Clock::new(0, 1_700_000_000_000_000_000), &mut columns).is_ok();
    let kept: usize = Kind::ALL.iter().map(|kind| columns.count(*kind) + columns.heap[*kind as usize]).sum();
    assert_eq!(kept > 0, is_event, "nothing of what makes no sense is kept");
    is_event
}

/// Settings are taken, or refused with their file. Whether they were taken; none where they are no text.
pub fn settings(bytes: &[u8]) -> Option<bool> {
    let text = std::str::from_utf8(bytes).ok()?;
    match parse_settings(Path::new("/etc/p.toml"), Some(text)) {
        Ok(settings) => {
            assert!(settings.tick_ms > 0 && settings.limits.deadline_ms > 0, "{settings:?}");
            assert!(serde_json::from_str::<serde_json::Value>(&settings.config).is_ok(), "{settings:?}");
            Some(true)
        }
        Err(error) => {
            assert!(format!("{error:#}").contains("/etc/p.toml"), "{error:#}");
            Some(false)
        }
    }
}
