//! Threads that write, so that one can tell later of which moment a disk's contents are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::EagerDisk;

const BLOCK: usize = 4096;

/// Threads that each write the numbers 1, 2, 3 … over and over into blocks of their own, one number a block, one block after the other. So at
/// any moment a writer's blocks have as many numbers in a row.
#[derive(Debug)]
pub struct Writers {
    threads: Vec<JoinHandle<u64>>,
    go: Arc<AtomicBool>,
    blocks: u64,
}

impl Writers {
    /// So many threads, of which each has `blocks` blocks of 4096 bytes of the disk, from its beginning on.
    #[must_use]
    pub fn start(disk: &Arc<EagerDisk>, writers: u64, blocks: u64) -> Self {
        let go = Arc::new(AtomicBool::new(true));
        let threads = (0..writers)
            .map(|writer| {
                let (disk, go) = (Arc::clone(disk), Arc::clone(&go));
                std::thread::spawn(move || {
                    let mut last = 0;
                    while go.load(Ordering::Relaxed) {
                        let block = writer * blocks + last % blocks;
                        last += 1;
                        let bytes = u64::to_le_bytes(last).repeat(BLOCK / 8);
                        if disk.write(block * BLOCK as u64, &bytes).is_err() {
                            return u64::MAX;
                        }
                    }
                    last
                })
            })
            .collect();
        Self {
            threads,
            go,
            blocks,
        }
    }

    /// Ends the threads: the last number of each, or `u64::MAX` where a write failed.
    pub fn stop(self) -> Vec<u64> {
        self.go.store(false, Ordering::Relaxed);
        let last = |thread: JoinHandle<u64>| thread.join().unwrap_or(u64::MAX);
        self.threads.into_iter().map(last).collect()
    }

    /// The last number of each writer in a disk's contents, if these are of one moment for each of them.
    #[must_use]
    pub fn moment(&self, contents: &[u8]) -> Option<Vec<u64>> {
        moment(contents, self.threads.len(), self.blocks)
    }
}

/// As [`Writers::moment`], for writers that have ended.
#[must_use]
pub fn moment(contents: &[u8], writers: usize, blocks: u64) -> Option<Vec<u64>> {
    let blocks = usize::try_from(blocks).ok()?;
    let mut lasts = Vec::new();
    for own in contents.chunks(blocks * BLOCK).take(writers) {
        let mut numbers = Vec::new();
        for block in own.chunks(BLOCK) {
            let (first, words) = block.as_chunks::<8>().0.split_first()?;
            // Not torn.
            words.iter().all(|word| word == first).then_some(())?;
            numbers.push(u64::from_le_bytes(*first));
        }
        let last = *numbers.iter().max()?;
        for (index, number) in (0..blocks as u64).zip(numbers) {
            // The largest number up to the last one that belongs here, if there was one.
            let behind = (last + blocks as u64 - 1 - index) % blocks as u64;
            (number == (last).saturating_sub(behind)).then_some(())?;
        }
        lasts.push(last);
    }
    Some(lasts)
}
