//! Every layout, ring size and number of queues, with and without persistent grants and indirect requests: random requests against a
//! plain model of a disk.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and makes its own small numbers"
)]

use std::sync::Arc;
use std::time::Duration;

use cantle_abi::PAGE_SIZE;
use cantle_abi::io::blkif::{
    BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_INDIRECT, BLKIF_OP_READ, BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY, BlkifRequest, BlkifRequestDiscard,
    BlkifRequestIndirect, BlkifRequestSegment,
};
use cantle_blkback::image::{Caching, RawDisk, RawOptions};
use cantle_blkback::test_utils::{FrontOptions, FrontQueue, Random, RingSpelling, World};
use cantle_blkback::{BackendOptions, Protocol};
use proptest::prelude::*;
use zerocopy::FromZeros;

const SECTOR: usize = 512;
const SECTORS: u64 = 4096;

#[derive(Clone, Debug)]
struct Setting {
    front: FrontOptions,
    /// How many pages stay mapped: often fewer than are used.
    keeps: usize,
    spins: bool,
    direct: bool,
}

fn settings() -> impl Strategy<Value = Setting> {
    let protocol = prop_oneof![Just(Protocol::Native), Just(Protocol::X86_32)];
    let spelling = prop_oneof![
        Just(RingSpelling::Order),
        Just(RingSpelling::Pages),
        Just(RingSpelling::Both)
    ];
    let segments = prop_oneof![Just(11_u16), Just(32), Just(256)];
    let keeps = prop_oneof![Just(1_usize), Just(7), Just(1056)];
    let front = (
        protocol,
        0_u8..=4,
        spelling,
        1_u16..=4,
        any::<bool>(),
        segments,
    );
    (front, keeps, any::<bool>(), any::<bool>()).prop_map(|(front, keeps, spins, direct)| {
        let (protocol, ring_page_order, spelling, queues, persistent, segments) = front;
        Setting {
            front: FrontOptions {
                protocol,
                ring_page_order,
                spelling,
                queues,
                persistent,
                segments,
            },
            keeps,
            spins,
            direct,
        }
    })
}

#[derive(Clone, Debug)]
struct Step {
    queue: usize,
    operation: u8,
    /// The segments by an indirect request, where it is a read or write and the setting has that.
    indirect: bool,
    sector: u64,
    pages: usize,
    seed: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let operation = prop_oneof![
        4 => Just(BLKIF_OP_READ),
        4 => Just(BLKIF_OP_WRITE),
        1 => Just(BLKIF_OP_FLUSH_DISKCACHE),
        1 => Just(BLKIF_OP_WRITE_BARRIER),
        1 => Just(BLKIF_OP_DISCARD),
    ];
    let pages = prop_oneof![3 => 1_usize..=11, 1 => 12_usize..=256];
    let step = (
        0_usize..4,
        operation,
        any::<bool>(),
        0..SECTORS + 20,
        pages,
        any::<u64>(),
    );
    let step = step.prop_map(|(queue, operation, indirect, sector, pages, seed)| Step {
        queue,
        operation,
        indirect,
        sector,
        pages,
        seed,
    });
    prop::collection::vec(step, 1..30)
}

/// A [`Step`] for a queue: where in its slot's pages the bytes are.
struct Plan {
    request: BlkifRequest,
    parts: Vec<(u8, u8)>,
}

impl Plan {
    fn new(step: &Step, queue: &FrontQueue, slot: usize) -> Self {
        let most = queue.request_bytes() / PAGE_SIZE;
        let is_transfer = matches!(step.operation, BLKIF_OP_READ | BLKIF_OP_WRITE);
        let indirect = is_transfer && step.indirect && most > 11;
        let count = step.pages.min(if indirect { most } else { 11 });
        let mut random = Random::new(step.seed);
        let parts: Vec<_> = (0..count)
            .map(|_| {
                let (a, b) = (random.below(8) as u8, random.below(8) as u8);
                (a.min(b), a.max(b))
            })
            .collect();
        let segments = parts
            .iter()
            .enumerate()
            .map(|(page, (first, last))| BlkifRequestSegment {
                gref: queue.page(slot, page).unwrap().gref,
                first_sect: *first,
                last_sect: *last,
                pad: 0xffff,
            });
        let request = if indirect {
            queue.write_segments(slot, segments);
            let mut request = BlkifRequestIndirect::new_zeroed();
            request.operation = BLKIF_OP_INDIRECT;
            request.indirect_op = step.operation;
            request.nr_segments = count as u16;
            request.id = slot as u64;
            request.sector_number = step.sector;
            request.indirect_grefs[0] = queue.segment_page(slot).unwrap().gref;
            request.into()
        } else if step.operation == BLKIF_OP_DISCARD {
            let mut request = BlkifRequestDiscard::new_zeroed();
            request.operation = BLKIF_OP_DISCARD;
            request.id = slot as u64;
            request.sector_number = step.sector;
            request.nr_sectors = sectors(&parts);
            request.into()
        } else {
            let mut request = BlkifRequest::new_zeroed();
            request.operation = step.operation;
            request.id = slot as u64;
            request.sector_number = step.sector;
            request.nr_segments = count as u8;
            for (place, segment) in request.seg.iter_mut().zip(segments) {
                *place = segment;
            }
            request
        };
        Self { request, parts }
    }

    /// The bytes that the parts name, of these pages.
    fn gather(&self, pages: &[u8]) -> Vec<u8> {
        let pages = pages.chunks(PAGE_SIZE).zip(&self.parts);
        pages
            .flat_map(|(page, (a, b))| {
                &page[usize::from(*a) * SECTOR..(usize::from(*b) + 1) * SECTOR]
            })
            .copied()
            .collect()
    }
}

fn sectors(parts: &[(u8, u8)]) -> u64 {
    parts.iter().map(|(a, b)| u64::from(b - a + 1)).sum()
}

fn run(setting: &Setting, steps: &[Step]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut model = vec![0_u8; SECTORS as usize * SECTOR];
    let mut random = Random::new(1);
    model.fill_with(|| random.below(256) as u8);
    std::fs::write(file.path(), &model).unwrap();
    let caching = if setting.direct {
        Caching::DirectIfPossible
    } else {
        Caching::Buffered
    };
    let raw = RawOptions {
        caching,
        ..RawOptions::default()
    };
    let image = RawDisk::open(file.path(), &raw).unwrap();
    let world = World::with_memory(4096);
    let options = BackendOptions {
        max_queues: 4,
        persistent_pages: setting.keeps,
        spin: Duration::from_micros(if setting.spins { 20 } else { 0 }),
        ..BackendOptions::default()
    };
    let disk = world.serve(world.backend_of(Arc::new(image), options).unwrap());
    let mut front = world.front_with(setting.front).unwrap();
    let queues = usize::from(setting.front.queues);
    for (number, step) in steps.iter().enumerate() {
        let queue = front.queue(step.queue % queues).unwrap();
        // Slots and the ring's places come in different orders.
        let slot = number * 7 % queue.ring_slots().min(3);
        let plan = Plan::new(step, queue, slot);
        let mut before = vec![0; plan.parts.len() * PAGE_SIZE];
        let mut random = Random::new(step.seed);
        before.fill_with(|| random.below(256) as u8);
        queue.put_into(slot, &before);
        let answer = queue.ask(&plan.request).unwrap();
        assert_eq!(answer.id, slot as u64);
        assert_eq!(answer.operation, step.operation);
        let mut after = vec![0; before.len()];
        queue.take_from(slot, &mut after);
        let start = step.sector as usize * SECTOR;
        let range = start..start + sectors(&plan.parts) as usize * SECTOR;
        let Some(on_disk) = model.get_mut(range) else {
            assert_eq!(answer.status, BLKIF_RSP_ERROR, "{step:?}");
            assert!(
                before == after,
                "a refused request touched memory: {step:?}"
            );
            continue;
        };
        assert_eq!(answer.status, BLKIF_RSP_OKAY, "{step:?}");
        match step.operation {
            BLKIF_OP_READ => assert!(plan.gather(&after) == on_disk, "{step:?}"),
            BLKIF_OP_DISCARD => on_disk.fill(0),
            _ => on_disk.copy_from_slice(&plan.gather(&before)),
        }
    }
    // All of it by each queue, with whatever requests it has.
    for queue in front.queues_mut() {
        assert!(queue.read(0, model.len()).unwrap() == model);
    }
    assert_eq!(disk.stats().snapshot().failed, 0);
    front.close().unwrap();
    disk.stop().1.unwrap();
    assert!(
        std::fs::read(file.path()).unwrap() == model,
        "the file is the model"
    );
    assert_eq!(world.mapped(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn disk_is_its_model_in_every_layout(setting in settings(), steps in steps()) {
        run(&setting, &steps);
    }
}

/// Not left to chance: each layout with each size of ring and each way to name it.
#[test]
fn every_ring_is_filled_and_emptied() {
    for protocol in [Protocol::Native, Protocol::X86_32] {
        for ring_page_order in 0..=4 {
            for spelling in [RingSpelling::Order, RingSpelling::Pages] {
                let world = World::with_memory(8192);
                let options = BackendOptions {
                    max_queues: 2,
                    ..BackendOptions::default()
                };
                let file = tempfile::NamedTempFile::new().unwrap();
                file.as_file().set_len(SECTORS * SECTOR as u64).unwrap();
                let image = RawDisk::open(file.path(), &RawOptions::default()).unwrap();
                let disk = world.serve(world.backend_of(Arc::new(image), options).unwrap());
                let mut front = world
                    .front_with(FrontOptions {
                        protocol,
                        ring_page_order,
                        spelling,
                        queues: 2,
                        ..FrontOptions::default()
                    })
                    .unwrap();
                let (header, slot) = match protocol {
                    Protocol::Native => (64, 112),
                    Protocol::X86_32 => (64, 108),
                };
                let fit = ((PAGE_SIZE << ring_page_order) - header) / slot;
                let slots = 1 << fit.ilog2();
                for queue in front.queues_mut() {
                    assert_eq!(queue.ring_slots(), slots, "{protocol:?} {ring_page_order}");
                    let times = 3 * slots as u64;
                    queue
                        .random(BLKIF_OP_WRITE, SECTOR, slots, times, 5)
                        .unwrap();
                    queue
                        .random(BLKIF_OP_READ, SECTOR, slots, times, 6)
                        .unwrap();
                }
                let stats = disk.stats().snapshot();
                assert_eq!(
                    (stats.reads, stats.writes),
                    (6 * slots as u64, 6 * slots as u64)
                );
            }
        }
    }
}
