//! What front end and back end are, by the input.

use std::time::Duration;

use cantle_blkback::test_utils::{FrontOptions, RingSpelling};
use cantle_blkback::{BackendOptions, DiskKind, OnError, Protocol};

/// The first bytes of an input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    front: u8,
    ring: u8,
    back: u8,
}

impl Setup {
    /// Takes it off an input; what is missing is 0, which is everybody's defaults.
    pub(super) fn take(data: &[u8]) -> (Self, &[u8]) {
        match data {
            [front, ring, back, rest @ ..] => {
                let (front, ring, back) = (*front, *ring, *back);
                (Self { front, ring, back }, rest)
            }
            _ => {
                let (front, ring, back) = (0, 0, 0);
                (Self { front, ring, back }, &[])
            }
        }
    }

    pub(super) fn is_cd(self) -> bool {
        self.back & 0x30 == 0x30
    }

    pub(super) fn front(self) -> FrontOptions {
        FrontOptions {
            protocol: if self.front & 1 != 0 {
                Protocol::X86_32
            } else {
                Protocol::Native
            },
            ring_page_order: (self.ring & 7).min(4),
            spelling: match self.ring >> 6 {
                0 => RingSpelling::Both,
                1 => RingSpelling::Pages,
                _ => RingSpelling::Order,
            },
            // One, so that a failure can be repeated: others have threads of their own.
            queues: 1,
            persistent: self.front & 2 != 0,
            segments: if self.front & 4 != 0 { 64 } else { 11 },
        }
    }

    pub(super) fn backend(self) -> BackendOptions {
        BackendOptions {
            on_error: match self.back & 0x03 {
                1 => OnError::Stop,
                2 => OnError::StopWhenFull,
                _ => OnError::Report,
            },
            kind: if self.is_cd() {
                DiskKind::Cdrom
            } else {
                DiskKind::Disk
            },
            indirect_segments: if self.back & 0x40 != 0 { 0 } else { 60 },
            barrier: self.back & 0x08 == 0,
            discard: self.back & 0x04 == 0,
            persistent_pages: if self.back & 0x80 != 0 { 3 } else { 100 },
            spin: Duration::ZERO,
            ..BackendOptions::default()
        }
    }
}
