//! Requests that lie.

use super::*;
use cantle_abi::GrantRef;
use cantle_abi::SharedMemory;
use cantle_abi::io::blkif::{BLKIF_RSP_ERROR, BLKIF_RSP_OKAY, BlkifRequest, BlkifRequestSegment};
use cantle_abi::ring::RING_HEADER_SIZE;
use cantle_blkback::StatsSnapshot;
use cantle_blkback::test_utils::{BACK, BlkFront, FrontQueue, copy_out};
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// A request changes in the ring while the backend reads it. It is one copy that is checked and used: whatever reaches the
/// image lies within the disk, and each request is answered once.
#[test]
fn xsa_155_double_fetch() {
    for protocol in LAYOUTS {
        let (file, disk) = raw_disk();
        while_scribbling_over_slots(disk, protocol);
        assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 512 * SECTORS);
        // This image fails nothing that is within the disk: a failure is a request that changed after it was checked.
        assert_eq!(while_scribbling_over_slots(null_disk(), protocol).failed, 0);
    }
}

fn while_scribbling_over_slots(disk: Arc<dyn Disk>, protocol: Protocol) -> StatsSnapshot {
    let (world, served) = served(disk);
    let options = FrontOptions {
        protocol,
        ring_page_order: 1,
        persistent: protocol == Protocol::X86_32,
        ..FrontOptions::default()
    };
    let mut front = world.front_with(options).unwrap();
    let pages = front.ring_pages().to_vec();
    let answered = while_scribbling(&mut front, &pages, |queue, slot| {
        queue.request(slot, &write(slot as u64 * 88, 45056))
    });
    accounted_for(served, front, answered)
}

/// The segments of an indirect request change while they are read, in both layouts.
#[test]
fn xsa_155_double_fetch_of_indirect_segments() {
    for protocol in LAYOUTS {
        let (file, disk) = raw_disk();
        while_scribbling_over_segments(disk, protocol);
        assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 512 * SECTORS);
        let stats = while_scribbling_over_segments(null_disk(), protocol);
        assert_eq!(stats.failed, 0);
        assert!(stats.refused > 0, "the scribbling was seen: {stats:?}");
    }
}

fn while_scribbling_over_segments(disk: Arc<dyn Disk>, protocol: Protocol) -> StatsSnapshot {
    let (world, served) = served(disk);
    let options = FrontOptions {
        protocol,
        segments: 64,
        ..FrontOptions::default()
    };
    let mut front = world.front_with(options).unwrap();
    let pages: Vec<_> = (0..16)
        .map(|slot| front.segment_page(slot).unwrap().clone())
        .collect();
    let answered = while_scribbling(&mut front, &pages, |queue, slot| {
        // Up to the end of the disk: a sector more is one too many.
        let at = SECTORS - 512 - slot as u64 % 2;
        queue.indirect(slot, &write(at, 64 * PAGE_SIZE)).into()
    });
    accounted_for(served, front, answered)
}

/// Batches of requests while somebody writes over the pages (of a ring, but for its header); how many were answered.
fn while_scribbling(
    front: &mut BlkFront,
    pages: &[LentPage],
    request: impl Fn(&FrontQueue, usize) -> BlkifRequest,
) -> u64 {
    let stop = AtomicBool::new(false);
    let mut answered = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut seed = 155;
            while !stop.load(Ordering::Relaxed) {
                for (number, page) in pages.iter().enumerate() {
                    // The slots, not the header: the ring itself stays in order, only its contents lie.
                    let from = if number == 0 { RING_HEADER_SIZE } else { 0 };
                    seed += 1;
                    scribble_once(page, from, seed);
                }
            }
        });
        let end = Instant::now() + Duration::from_millis(300);
        while Instant::now() < end {
            for slot in 0..16 {
                let request = request(front, slot);
                front.push(&request).unwrap();
            }
            front.kick().unwrap();
            for _ in 0..16 {
                // Whatever it says: the response may have been changed as well.
                front.wait_response().unwrap();
                answered += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    answered
}

fn accounted_for(served: Served, front: BlkFront, answered: u64) -> StatsSnapshot {
    let stats = served.stats().snapshot();
    let done = stats.reads + stats.writes + stats.flushes + stats.discards;
    let total = done + stats.refused + stats.failed;
    assert_eq!(total, answered, "each request was counted once: {stats:?}");
    drop(front);
    served.stop().1.unwrap();
    stats
}

/// Every byte of a response is written, padding included: no memory of the backend goes out with it.
#[test]
fn xsa_216_response_padding() {
    let world = World::new();
    let _disk = world.serve(world.backend(null()).unwrap());
    let mut front = world.front().unwrap();
    // Whatever was there before must be gone from the 16 bytes of each response.
    copy_in(
        &front.ring_page().memory,
        RING_HEADER_SIZE,
        &[0xee; 112 * 32],
    );
    for slot in 0..32_usize {
        let mut request = front.request(slot, &read(0, 4096));
        request.id = 0;
        request.operation = if slot % 2 == 0 { BLKIF_OP_READ } else { 99 };
        request.pad = 0xeeee_eeee;
        front.push(&request).unwrap();
    }
    front.kick().unwrap();
    for _ in 0..32 {
        front.wait_response().unwrap();
    }
    // Refused requests are answered before those that the image does, so the order is not the requests'.
    let mut counts = [0; 2];
    for slot in 0..32 {
        let mut response = [0xff; 16];
        let memory = &front.ring_page().memory;
        copy_out(memory, RING_HEADER_SIZE + slot * 112, &mut response);
        let kinds = [(BLKIF_OP_READ, 0_i16), (99, -2)].map(|(operation, status)| {
            let mut expected = [0; 16];
            expected[8] = operation;
            expected[10..12].copy_from_slice(&status.to_ne_bytes());
            expected
        });
        let kind = kinds.iter().position(|expected| *expected == response);
        counts[kind.unwrap_or_else(|| panic!("slot {slot}: {response:?}"))] += 1;
    }
    assert_eq!(counts, [16, 16]);
}

/// The same of a 32-bit ring, whose responses have 12 bytes and whose slots lie otherwise.
#[test]
fn xsa_216_response_padding_of_32_bits() {
    let (world, _served) = served(null_disk());
    let mut front = world
        .front_with(FrontOptions {
            protocol: Protocol::X86_32,
            ..FrontOptions::default()
        })
        .unwrap();
    let page = front.ring_page().clone();
    copy_in(&page.memory, RING_HEADER_SIZE, &[0xee; 108 * 32]);
    for slot in 0..32_usize {
        let mut request = front.request(slot, &read(0, 4096));
        request.id = 0x0102_0304_0506_0708;
        front.push(&request).unwrap();
    }
    front.kick().unwrap();
    for _ in 0..32 {
        assert_eq!(front.wait_response().unwrap().status, BLKIF_RSP_OKAY);
    }
    for slot in 0..32 {
        let mut response = [0xff; 12];
        copy_out(&page.memory, RING_HEADER_SIZE + slot * 108, &mut response);
        assert_eq!(response, [8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0], "{slot}");
    }
}

/// One page of several does not map: the request fails, whichever it is, and no page of it is touched.
#[test]
fn xsa_365_grant_error_kept() {
    let (file, image) = raw_file();
    std::fs::write(file.path(), vec![0x77; 512 * SECTORS as usize]).unwrap();
    let world = World::new();
    let disk = world.serve(world.backend(image).unwrap());
    let mut front = world.front().unwrap();
    for bad in 0..11 {
        let mut request = front.request(bad, &read(0, 45056));
        request.seg[bad].gref = GrantRef(30_000);
        assert_eq!(
            front.ask(&request).unwrap().status,
            BLKIF_RSP_ERROR,
            "segment {bad}"
        );
        for n in 0..11 {
            let mut page = [1; PAGE_SIZE];
            copy_out(&front.page(bad, n).unwrap().memory, 0, &mut page);
            assert_eq!(page, [0; PAGE_SIZE], "page {n} of {bad}");
        }
    }
    // A page that may only be read is no place to read a disk into.
    let frame = world.guest().alloc_frame();
    let mut request = front.request(0, &read(0, 8192));
    request.seg[1].gref = world.guest().grant(BACK, frame, true);
    assert_eq!(front.ask(&request).unwrap().status, BLKIF_RSP_ERROR);
    request.operation = BLKIF_OP_WRITE;
    assert_eq!(
        front.ask(&request).unwrap().status,
        BLKIF_RSP_OKAY,
        "but to write from"
    );
    assert_eq!(disk.stats().snapshot().refused, 12);
    // Whatever was mapped on the way was let go.
    let table = world.guest().table().stats();
    assert_eq!(
        table.maps,
        table.unmaps + 1,
        "the ring's page is left: {table:?}"
    );
}

/// One of many pages does not map, mapped one by one, in a batch, kept, or named by an indirect request: that is the answer, whichever
/// it is, and nothing of what did map is used or stays behind.
#[test]
fn xsa_365_grant_error_kept_in_every_way_of_mapping() {
    for persistent in [false, true] {
        for pages in [1, 2, 3, 11, 12, 200] {
            let (file, disk) = raw_disk();
            std::fs::write(file.path(), vec![0x77; 512 * SECTORS as usize]).unwrap();
            let (world, served) = served(disk);
            let mut front = world
                .front_with(FrontOptions {
                    persistent,
                    segments: 256,
                    ..FrontOptions::default()
                })
                .unwrap();
            for bad in [0, pages / 2, pages - 1] {
                for operation in [BLKIF_OP_READ, BLKIF_OP_WRITE] {
                    let transfer = Transfer {
                        operation,
                        sector: 0,
                        bytes: pages * PAGE_SIZE,
                    };
                    let mut request = front.request(bad % 32, &transfer);
                    let slot = bad % 32;
                    front.put_into(slot, &vec![0; pages * PAGE_SIZE]);
                    let segment = BlkifRequestSegment {
                        gref: GrantRef(30_000),
                        first_sect: 0,
                        last_sect: 7,
                        pad: 0,
                    };
                    if pages <= 11 {
                        request.seg[bad] = segment;
                    } else {
                        let page = front.segment_page(slot).unwrap();
                        copy_in(
                            &page.memory,
                            bad * 8,
                            zerocopy::IntoBytes::as_bytes(&segment),
                        );
                    }
                    let status = front.ask(&request).unwrap().status;
                    assert_eq!(status, BLKIF_RSP_ERROR, "{bad} of {pages}");
                    let mut now = vec![1; pages * PAGE_SIZE];
                    front.take_from(slot, &mut now);
                    assert!(now.iter().all(|byte| *byte == 0), "{bad} of {pages}");
                }
            }
            assert_eq!(served.stats().snapshot().refused, 6);
            let on_disk = std::fs::read(file.path()).unwrap();
            assert!(on_disk.iter().all(|byte| *byte == 0x77));
            if !persistent {
                assert_eq!(world.mapped(), 1, "the ring's page is left");
            }
            front.close().unwrap();
            assert_eq!(world.mapped(), 0);
        }
    }
}

/// The same page in all segments, and in all requests at once, is the guest's own business.
#[test]
fn one_page_many_times_is_allowed() {
    let (_file, image) = raw_file();
    let world = World::new();
    let _disk = world.serve(world.backend(image).unwrap());
    let mut front = world.front().unwrap();
    let gref = front.page(0, 0).unwrap().gref;
    for slot in 0..32 {
        let mut request = front.request(slot, &read(0, 45056));
        for segment in &mut request.seg {
            segment.gref = gref;
        }
        front.push(&request).unwrap();
    }
    front.kick().unwrap();
    for _ in 0..32 {
        assert_eq!(front.wait_response().unwrap().status, BLKIF_RSP_OKAY);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bytes in any number of slots: each request is answered, and a good one afterwards works.
    #[test]
    fn any_requests_are_answered(slots in prop::collection::vec(any::<[u8; 8]>(), 1..32), seed in any::<u64>()) {
        let world = World::new();
        let mut backend = world.backend(null()).unwrap();
        let mut front = BlkFront::start(&world).unwrap();
        while !front.finish().unwrap() {
            backend.process().unwrap();
        }
        let mut random = Random::new(seed);
        for bytes in &slots {
            let mut request = front.request(random.below(32) as usize, &read(random.below(SECTORS), 4096 * random.below(11) as usize));
            request.operation = bytes[0] % 9;
            if bytes[1] < 64 { request.nr_segments = bytes[2]; }
            if bytes[3] < 64 { request.seg[usize::from(bytes[4] % 11)].last_sect = bytes[5]; }
            if bytes[6] < 64 { request.seg[usize::from(bytes[4] % 11)].gref = GrantRef(random.below(1000) as u32); }
            if bytes[7] < 64 { request.sector_number = u64::from_ne_bytes(*bytes); }
            front.push(&request).unwrap();
        }
        front.kick().unwrap();
        for _ in 0..slots.len() * 2 + 4 {
            backend.process().unwrap();
        }
        for _ in &slots {
            prop_assert!(front.response().unwrap().is_some());
        }
        prop_assert!(front.response().unwrap().is_none());
        let good: BlkifRequest = front.request(0, &read(0, 512));
        front.push(&good).unwrap();
        front.kick().unwrap();
        backend.process().unwrap();
        prop_assert_eq!(front.response().unwrap().map(|r| r.status), Some(BLKIF_RSP_OKAY));
        prop_assert!(front.ring_page().memory.len() == PAGE_SIZE);
    }
}
