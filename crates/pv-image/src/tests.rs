//! The image against what the host and the aims say of it.

extern crate std;

use super::MONITOR;
use cantle_pv_monitor::interface::{IMAGE_LIMIT, MONITOR_BASE};
use std::vec::Vec;

/// The most that the loaded image may be.
const AIM: u64 = 64 << 10;

fn number(at: usize, bytes: usize) -> u64 {
    let mut raw = [0; 8];
    raw[..bytes].copy_from_slice(&MONITOR[at..at + bytes]);
    u64::from_le_bytes(raw)
}

/// Address, bytes in memory and flags of each segment that is loaded.
fn segments() -> Vec<(u64, u64, u64)> {
    let table = usize::try_from(number(32, 8)).unwrap();
    let count = usize::try_from(number(56, 2)).unwrap();
    (0..count)
        .map(|index| table + index * 56)
        .filter(|at| number(*at, 4) == 1)
        .map(|at| (number(at + 16, 8), number(at + 40, 8), number(at + 4, 4)))
        .collect()
}

#[test]
fn is_an_executable_for_this_kind_of_machine() {
    assert_eq!(MONITOR[..6], *b"\x7fELF\x02\x01");
    assert_eq!(number(16, 2), 2, "ET_EXEC: linked at fixed addresses");
    assert_eq!(number(18, 2), 62, "x86-64");
}

#[test]
fn is_small_and_at_its_place() {
    let segments = segments();
    assert!(!segments.is_empty());
    let start = segments.iter().map(|segment| segment.0).min().unwrap();
    let end = segments
        .iter()
        .map(|segment| segment.0 + segment.1)
        .max()
        .unwrap();
    assert_eq!(start, MONITOR_BASE);
    assert!(end - start <= IMAGE_LIMIT);
    assert!(end - start < AIM, "{} bytes", end - start);
    let entry = number(24, 8);
    assert!(
        segments
            .iter()
            .any(|(at, bytes, flags)| (*at..at + bytes).contains(&entry) && flags & 1 != 0),
        "the entry is in a segment that may be executed"
    );
}

#[test]
fn no_segment_is_writable_and_executable() {
    assert!(segments().iter().all(|(_, _, flags)| flags & 3 != 3));
}
