use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::{FormatDisk, FormatOptions};
use crate::test_utils::Driven;
use crate::{Disk, Extent, Format, Geometry, ImageError, Mapped};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 64;

/// A small format: blocks are where they were first written, in the order of that, in the file; a discarded block's place is given to the
/// next that needs one.
struct Blocks {
    file: Arc<File>,
    table: Mutex<Table>,
    writes: AtomicU64,
    flushes: AtomicU64,
    /// New blocks find no room.
    full: AtomicBool,
}

#[derive(Default)]
struct Table {
    places: HashMap<u64, u64>,
    free: Vec<u64>,
    end: u64,
}

impl Blocks {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            file: Arc::new(tempfile::tempfile().unwrap()),
            table: Mutex::default(),
            writes: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            full: AtomicBool::new(false),
        })
    }
}

impl Format for Blocks {
    fn geometry(&self) -> Geometry {
        Geometry {
            discard: true,
            ..Geometry::new(BLOCKS * BLOCK / 512)
        }
    }

    fn files(&self) -> Vec<Arc<File>> {
        vec![Arc::clone(&self.file)]
    }

    fn map(&self, offset: u64, len: u64) -> Result<Mapped> {
        let inside = offset % BLOCK;
        let extent = match self.table.lock().unwrap().places.get(&(offset / BLOCK)) {
            Some(place) => Extent::Data {
                file: 0,
                offset: place + inside,
                writable: true,
            },
            None => Extent::Zero,
        };
        let len = len.min(BLOCK - inside);
        Ok(Mapped { extent, len })
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        crate::format::read_mapped(self, offset, into)
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let (mut at, mut rest) = (offset, from);
        while !rest.is_empty() {
            let inside = at % BLOCK;
            let here = rest.len().min(usize::try_from(BLOCK - inside).unwrap());
            let mut table = self.table.lock().unwrap();
            let place = match table.places.get(&(at / BLOCK)) {
                Some(place) => *place,
                None => {
                    if self.full.load(Ordering::Relaxed) {
                        return Err(Error::from_raw_os_error(libc::ENOSPC));
                    }
                    let place = table.free.pop().unwrap_or(table.end);
                    table.end = table.end.max(place + BLOCK);
                    self.file.write_all_at(&[0; 4096], place)?;
                    place
                }
            };
            // What comes first is the contents; others must not see the block before.
            self.file.write_all_at(&rest[..here], place + inside)?;
            table.places.insert(at / BLOCK, place);
            at += here as u64;
            rest = &rest[here..];
        }
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let mut table = self.table.lock().unwrap();
        for block in offset.div_ceil(BLOCK)..(offset + len) / BLOCK {
            if let Some(place) = table.places.remove(&block) {
                table.free.push(place);
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }
}

fn disk(format: &Arc<Blocks>) -> FormatDisk {
    FormatDisk::new(format.clone(), FormatOptions::default()).unwrap()
}

#[test]
fn what_is_known_goes_the_short_way() {
    let format = Blocks::new();
    let disk = disk(&format);
    let mut queue = Driven::new(&disk).unwrap();
    assert_eq!(queue.read(0, 8192).unwrap(), [0; 8192]);
    queue.write(0, &[1; 8192]).unwrap();
    assert_eq!(format.writes.load(Ordering::Relaxed), 1);
    queue.write(1, &[2; 512]).unwrap();
    queue.write(15, &[3; 512]).unwrap();
    assert_eq!(format.writes.load(Ordering::Relaxed), 1, "in place");
    let bytes = queue.read(0, 8192).unwrap();
    assert_eq!(
        (bytes[511], bytes[512], bytes[1024], bytes[15 * 512]),
        (1, 2, 1, 3)
    );
    disk.forget(0, 4096);
    queue.write(0, &[4; 512]).unwrap();
    assert_eq!(format.writes.load(Ordering::Relaxed), 2, "asked again");
}

#[test]
fn an_error_of_the_format_is_the_requests() {
    let format = Blocks::new();
    let disk = disk(&format);
    let mut queue = Driven::new(&disk).unwrap();
    queue.write(0, &[1; 4096]).unwrap();
    format.full.store(true, Ordering::Relaxed);
    // The first block is there, the second not.
    assert_eq!(
        queue.write(0, &[2; 8192]),
        Err(ImageError::Host(libc::ENOSPC))
    );
    assert_eq!(queue.read(0, 4096).unwrap(), [2; 4096]);
    assert_eq!(queue.read(8, 4096).unwrap(), [0; 4096]);
    queue.write(0, &[3; 4096]).unwrap();
    assert!(matches!(
        queue.write(BLOCKS * 8, &[0; 512]),
        Err(ImageError::OutOfRange { .. })
    ));
}

#[test]
fn another_format_takes_over_in_one_moment() {
    let (first, second) = (Blocks::new(), Blocks::new());
    let disk = disk(&first);
    let mut queue = Driven::new(&disk).unwrap();
    queue.write(0, &[1; 4096]).unwrap();
    second.write(0, &[2; 4096]).unwrap();
    disk.exclusive(|format| *format = second.clone()).unwrap();
    assert_eq!(queue.read(0, 4096).unwrap(), [2; 4096]);
    queue.write(0, &[3; 512]).unwrap();
    drop((queue, disk));
    let mut bytes = [0; 512];
    first.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [1; 512]);
    second.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [3; 512]);
}

#[test]
fn the_last_one_flushes() {
    let format = Blocks::new();
    let disk = disk(&format);
    let mut queue = Driven::new(&disk).unwrap();
    queue.write(0, &[1; 512]).unwrap();
    let before = format.flushes.load(Ordering::Relaxed);
    drop(disk);
    queue.read(0, 512).unwrap();
    drop(queue);
    assert!(format.flushes.load(Ordering::Relaxed) > before);
}

#[test]
fn a_place_that_is_given_away_is_no_longer_written() {
    // Two queues write their own halves while blocks are discarded and given to others: a write that still went to a place it had
    // looked up before would be found in another block.
    let format = Blocks::new();
    let disk = disk(&format);
    let threads: Vec<_> = (0..2_u8)
        .map(|half| {
            let disk = disk.clone();
            std::thread::spawn(move || {
                let mut queue = Driven::new(&disk).unwrap();
                let mut seed = u64::from(half) + 7;
                for round in 0..3_000_u32 {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let block = (seed >> 33) % (BLOCKS / 2) * 2 + u64::from(half);
                    if round % 3 == 0 {
                        queue.discard(block * 8, 8).unwrap();
                    } else {
                        let value = u8::try_from(block).unwrap() + 1;
                        queue.write(block * 8, &[value; 4096]).unwrap();
                    }
                    let seen = queue.read(block * 8, 4096).unwrap();
                    let value = u8::try_from(block).unwrap() + 1;
                    assert!(
                        seen == [value; 4096] || seen == [0; 4096],
                        "block {block} holds {}",
                        seen[0]
                    );
                }
            })
        })
        .collect();
    for _ in 0..50 {
        disk.forget(0, BLOCKS * BLOCK);
        disk.exclusive(|_| ()).unwrap();
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64, u64),
    Write(u64, u64, u8),
    Discard(u64, u64),
    Flush,
    Forget(u64, u64),
    Exclusive,
}

fn steps() -> impl Strategy<Value = Step> {
    let range =
        || (0..BLOCKS * 8).prop_flat_map(|start| (Just(start), 1..=(BLOCKS * 8 - start).min(40)));
    prop_oneof![
        4 => range().prop_map(|(at, len)| Step::Read(at, len)),
        4 => (range(), any::<u8>()).prop_map(|((at, len), value)| Step::Write(at, len, value)),
        1 => range().prop_map(|(at, len)| Step::Discard(at, len)),
        1 => Just(Step::Flush),
        1 => range().prop_map(|(at, len)| Step::Forget(at, len)),
        1 => Just(Step::Exclusive),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn the_disk_is_an_array(steps in prop::collection::vec(steps(), 1..60)) {
        let format = Blocks::new();
        let disk = disk(&format);
        let mut queues = [Driven::new(&disk).unwrap(), Driven::new(&disk).unwrap()];
        let mut model = vec![0_u8; usize::try_from(BLOCKS * BLOCK).unwrap()];
        let place = |sector: u64| usize::try_from(sector * 512).unwrap();
        for (n, step) in steps.into_iter().enumerate() {
            let queue = &mut queues[n % 2];
            match step {
                Step::Read(at, len) => {
                    prop_assert_eq!(
                        &queue.read(at, place(len)).unwrap(),
                        &model[place(at)..place(at + len)]
                    );
                }
                Step::Write(at, len, value) => {
                    queue.write(at, &vec![value; place(len)]).unwrap();
                    model[place(at)..place(at + len)].fill(value);
                }
                Step::Discard(at, len) => {
                    queue.discard(at, len).unwrap();
                    // This format's discards are of whole blocks.
                    for block in at.div_ceil(8)..(at + len) / 8 {
                        model[place(block * 8)..place(block * 8 + 8)].fill(0);
                    }
                }
                Step::Flush => queue.flush().unwrap(),
                Step::Forget(at, len) => disk.forget(at * 512, len * 512),
                Step::Exclusive => disk.exclusive(|_| ()).unwrap(),
            }
        }
        prop_assert_eq!(disk.geometry().sectors, BLOCKS * 8);
        for queue in &mut queues {
            prop_assert_eq!(&queue.read(0, model.len()).unwrap(), &model);
        }
    }
}
