//! What an embedder says to a disk that is being served: a disk that has stopped goes on, media change, disks grow.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and makes its own small numbers"
)]

mod media;
mod stopping;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use cantle_blkback::image::{RawDisk, RawOptions};
use cantle_blkback::test_utils::FrontOptions;
use cantle_blkback::{BackendOptions, OnError};
use tempfile::NamedTempFile;

const SECTORS: u64 = 8192;

fn options(on_error: OnError) -> BackendOptions {
    BackendOptions {
        on_error,
        max_queues: 4,
        ..BackendOptions::default()
    }
}

fn queues(queues: u16) -> FrontOptions {
    FrontOptions {
        queues,
        ..FrontOptions::default()
    }
}

fn filled(byte: u8, sectors: u64) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![byte; sectors as usize * 512]).unwrap();
    file
}

fn raw(file: &NamedTempFile) -> Arc<RawDisk> {
    Arc::new(RawDisk::open(file.path(), &RawOptions::default()).unwrap())
}

fn pause() {
    std::thread::sleep(Duration::from_millis(60));
}

/// What came of an order; `None` where nobody is there to do it.
#[track_caller]
fn outcome(order: &Receiver<std::io::Result<()>>) -> Option<std::io::Result<()>> {
    match order.recv_timeout(Duration::from_secs(20)) {
        Ok(outcome) => Some(outcome),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => panic!("nobody does it"),
    }
}
