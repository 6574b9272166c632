//! Indirect requests: segments that stand in a page of their own.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and makes its own small numbers"
)]

use std::sync::Arc;

use cantle_abi::io::blkif::{
    BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_INDIRECT, BLKIF_OP_READ, BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER, BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY,
    BlkifRequestIndirect, BlkifRequestSegment,
};
use cantle_abi::{GrantRef, PAGE_SIZE};
use cantle_blkback::image::{RawDisk, RawOptions};
use cantle_blkback::test_utils::{BACK, BlkFront, FrontOptions, Random, Served, Transfer, World};
use cantle_blkback::{BackendOptions, Protocol};
use tempfile::NamedTempFile;

const SECTORS: u64 = 8192;

struct Disk {
    file: NamedTempFile,
    world: World,
    served: Served,
    front: BlkFront,
}

fn disk(protocol: Protocol, offered: u16) -> Disk {
    let file = NamedTempFile::new().unwrap();
    let mut random = Random::new(3);
    let mut bytes = vec![0_u8; SECTORS as usize * 512];
    bytes.fill_with(|| random.below(256) as u8);
    std::fs::write(file.path(), bytes).unwrap();
    let image = RawDisk::open(file.path(), &RawOptions::default()).unwrap();
    let world = World::with_memory(4096);
    let options = BackendOptions {
        indirect_segments: offered,
        ..BackendOptions::default()
    };
    let served = world.serve(world.backend_of(Arc::new(image), options).unwrap());
    let front = world
        .front_with(FrontOptions {
            protocol,
            segments: 256,
            ..FrontOptions::default()
        })
        .unwrap();
    Disk {
        file,
        world,
        served,
        front,
    }
}

fn transfer(operation: u8, sector: u64, pages: usize) -> Transfer {
    Transfer {
        operation,
        sector,
        bytes: pages * PAGE_SIZE,
    }
}

fn status(front: &mut BlkFront, request: BlkifRequestIndirect) -> i16 {
    let answer = front.ask(&request.into()).unwrap();
    assert_eq!(
        (answer.id, answer.operation),
        (request.id, request.indirect_op)
    );
    answer.status
}

#[test]
fn as_many_segments_as_were_offered_and_at_least_one() {
    for protocol in [Protocol::Native, Protocol::X86_32] {
        let Disk {
            file,
            served,
            mut front,
            ..
        } = disk(protocol, 256);
        let said = front.backend_key("feature-max-indirect-segments").unwrap();
        assert_eq!(said, "256");
        for pages in [1_usize, 11, 12, 255, 256] {
            let mut data = vec![0; pages * PAGE_SIZE];
            let mut random = Random::new(pages as u64);
            data.fill_with(|| random.below(256) as u8);
            front.put_into(5, &data);
            let write = front.indirect(5, &transfer(BLKIF_OP_WRITE, 40, pages));
            assert_eq!(usize::from(write.nr_segments), pages);
            assert_eq!(status(&mut front, write), BLKIF_RSP_OKAY, "{pages}");
            assert!(std::fs::read(file.path()).unwrap()[40 * 512..][..data.len()] == data);
            let read = front.indirect(6, &transfer(BLKIF_OP_READ, 40, pages));
            assert_eq!(status(&mut front, read), BLKIF_RSP_OKAY, "{pages}");
            let mut back = vec![0; data.len()];
            front.take_from(6, &mut back);
            assert!(back == data, "{pages}");
        }
        for segments in [0, 257, 512, 513, u16::MAX] {
            let mut request = front.indirect(7, &transfer(BLKIF_OP_READ, 0, 256));
            request.nr_segments = segments;
            assert_eq!(status(&mut front, request), BLKIF_RSP_ERROR, "{segments}");
        }
        assert_eq!(served.stats().snapshot().refused, 5);
        front.flush().unwrap();
    }
}

#[test]
fn nothing_more_than_was_offered() {
    for (offered, segments, expected) in [
        (0, 1, BLKIF_RSP_EOPNOTSUPP),
        (32, 32, BLKIF_RSP_OKAY),
        (32, 33, BLKIF_RSP_ERROR),
    ] {
        let mut disk = disk(Protocol::Native, offered);
        let mut request = disk.front.indirect(0, &transfer(BLKIF_OP_READ, 0, 11));
        // The front end goes by what was offered, but for this.
        for page in 0..segments {
            let segment = BlkifRequestSegment {
                gref: disk.front.page(1, page % 11).unwrap().gref,
                first_sect: 0,
                last_sect: 0,
                pad: 0,
            };
            disk.front.write_segments(0, vec![segment; page + 1]);
        }
        request.nr_segments = segments as u16;
        assert_eq!(
            status(&mut disk.front, request),
            expected,
            "{offered} {segments}"
        );
    }
}

#[test]
fn only_reads_and_writes_can_be_indirect() {
    let mut disk = disk(Protocol::Native, 256);
    let before = std::fs::read(disk.file.path()).unwrap();
    for operation in [
        BLKIF_OP_WRITE_BARRIER,
        BLKIF_OP_FLUSH_DISKCACHE,
        4,
        BLKIF_OP_DISCARD,
        BLKIF_OP_INDIRECT,
        7,
        255,
    ] {
        let request = disk.front.indirect(0, &transfer(operation, 0, 3));
        let status = status(&mut disk.front, request);
        assert_eq!(status, BLKIF_RSP_EOPNOTSUPP, "{operation}");
    }
    assert!(std::fs::read(disk.file.path()).unwrap() == before);
}

#[test]
fn a_page_of_segments_that_is_not_granted_is_refused() {
    for persistent in [false, true] {
        let mut disk = disk(Protocol::Native, 256);
        if persistent {
            disk.front.close().unwrap();
            disk.front = disk
                .world
                .front_with(FrontOptions {
                    persistent,
                    segments: 256,
                    ..FrontOptions::default()
                })
                .unwrap();
        }
        let good = disk.front.indirect(0, &transfer(BLKIF_OP_WRITE, 0, 20));
        for gref in [0xffff_ffff, 30_000, 32_768, 8] {
            let mut request = good;
            request.indirect_grefs[0] = GrantRef(gref);
            assert_eq!(status(&mut disk.front, request), BLKIF_RSP_ERROR, "{gref}");
        }
        // It is only read: that is all that need be granted.
        let page = disk.front.segment_page(0).unwrap().clone();
        let mut request = good;
        request.indirect_grefs[0] = disk.world.guest().grant(BACK, page.gfn, true);
        assert_eq!(status(&mut disk.front, request), BLKIF_RSP_OKAY);
        // Pages of segments that are not needed are not looked at.
        request.indirect_grefs[1..].fill(GrantRef(0xffff_ffff));
        assert_eq!(status(&mut disk.front, request), BLKIF_RSP_OKAY);
        // Nor does it stay mapped.
        assert!(disk.world.guest().end_access(request.indirect_grefs[0]));
    }
}

#[test]
fn one_bad_segment_of_many_fails_the_request_before_anything_is_done() {
    let mut disk = disk(Protocol::Native, 256);
    let before = std::fs::read(disk.file.path()).unwrap();
    let breaks: [fn(&mut BlkifRequestSegment); 5] = [
        |s| s.gref = GrantRef(30_000),
        |s| s.gref = GrantRef(u32::MAX),
        |s| s.last_sect = 8,
        |s| (s.first_sect, s.last_sect) = (5, 4),
        |s| (s.first_sect, s.last_sect) = (255, 255),
    ];
    for (n, break_it) in breaks.iter().enumerate() {
        for bad in [0, 11, 199, 255] {
            for operation in [BLKIF_OP_WRITE, BLKIF_OP_READ] {
                let request = disk.front.indirect(0, &transfer(operation, 0, 256));
                let mut segments: Vec<_> = (0..256)
                    .map(|page| BlkifRequestSegment {
                        gref: disk.front.page(0, page).unwrap().gref,
                        first_sect: 0,
                        last_sect: 7,
                        pad: 0,
                    })
                    .collect();
                break_it(&mut segments[bad]);
                disk.front.write_segments(0, segments);
                let status = status(&mut disk.front, request);
                assert_eq!(status, BLKIF_RSP_ERROR, "{n} in {bad}");
                let mut pages = vec![0; 256 * PAGE_SIZE];
                disk.front.take_from(0, &mut pages);
                assert!(pages.iter().all(|byte| *byte == 0), "{n} in {bad}");
            }
        }
    }
    assert!(std::fs::read(disk.file.path()).unwrap() == before);
    assert_eq!(disk.world.mapped(), 1, "the ring's page is left");
    // Beyond the end by the last segment alone.
    let request = disk
        .front
        .indirect(0, &transfer(BLKIF_OP_WRITE, SECTORS - 2047, 256));
    assert_eq!(status(&mut disk.front, request), BLKIF_RSP_ERROR);
    assert_eq!(disk.file.as_file().metadata().unwrap().len(), SECTORS * 512);
}

/// The segments were copied: what a read does to their page changes nothing of what is read where.
#[test]
fn a_page_of_segments_may_hold_data_too() {
    for persistent in [false, true] {
        let mut disk = disk(Protocol::Native, 256);
        disk.front.close().unwrap();
        let options = FrontOptions {
            persistent,
            segments: 256,
            ..FrontOptions::default()
        };
        disk.front = disk.world.front_with(options).unwrap();
        let contents = std::fs::read(disk.file.path()).unwrap();
        let own = disk.front.segment_page(0).unwrap().clone();
        for operation in [BLKIF_OP_READ, BLKIF_OP_WRITE] {
            let request = disk.front.indirect(0, &transfer(operation, 0, 20));
            let segments: Vec<_> = (0..20)
                .map(|page| BlkifRequestSegment {
                    gref: if page == 3 {
                        own.gref
                    } else {
                        disk.front.page(0, page).unwrap().gref
                    },
                    first_sect: 0,
                    last_sect: 7,
                    pad: 0,
                })
                .collect();
            disk.front.write_segments(0, segments);
            let before = disk.world.guest().read(own.gfn, 0, PAGE_SIZE);
            assert_eq!(status(&mut disk.front, request), BLKIF_RSP_OKAY);
            let now = disk.world.guest().read(own.gfn, 0, PAGE_SIZE);
            let there = 3 * PAGE_SIZE..4 * PAGE_SIZE;
            if operation == BLKIF_OP_READ {
                assert!(now == contents[there]);
                let mut pages = vec![0; 20 * PAGE_SIZE];
                disk.front.take_from(0, &mut pages);
                assert!(pages[4 * PAGE_SIZE..] == contents[4 * PAGE_SIZE..20 * PAGE_SIZE]);
            } else {
                assert!(now == before);
                assert!(std::fs::read(disk.file.path()).unwrap()[there] == before);
            }
        }
    }
}

#[test]
fn large_transfers_go_by_few_requests() {
    let mut disk = disk(Protocol::Native, 256);
    assert_eq!(disk.front.request_bytes(), 1 << 20);
    disk.front
        .sequential(BLKIF_OP_WRITE, 1 << 20, 4, 20)
        .unwrap();
    disk.front
        .sequential(BLKIF_OP_READ, 1 << 20, 4, 20)
        .unwrap();
    disk.front.random(BLKIF_OP_READ, 1 << 16, 4, 50, 1).unwrap();
    let stats = disk.served.stats().snapshot();
    assert_eq!((stats.writes, stats.reads), (20, 70));
    assert_eq!(stats.sectors_written, 20 * 2048);
}
