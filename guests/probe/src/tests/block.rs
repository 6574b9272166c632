//! The disk. Reads what is there; writes only where the command line allows it (`blk-write=SECTOR`) or, by default, its last pages.

use cantle_abi::io::blkif::{
    BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_OKAY, BlkifRequest, BlkifRequestSegment,
    VDISK_READONLY,
};
use cantle_abi::{GrantRef, PAGE_SIZE};

use crate::block::{Disk, SECTORS};
use crate::report::Outcome;
use crate::{Probe, clock, ensure, events, grants, say};

const PAGES: usize = 11;

/// What is written to each 64-bit word.
fn pattern(salt: u64) -> impl Fn(u64) -> u64 {
    move |i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt
}

fn holds(disk: &Disk, pages: usize, expected: impl Fn(u64) -> u64) -> bool {
    (0..pages * PAGE_SIZE / 8).all(|i| disk.data.read::<u64>(i * 8) == expected(i as u64))
}

pub(super) fn blk(probe: &mut Probe) -> Outcome {
    events::prepare()?;
    grants::prepare()?;
    let write_at = probe.start.number("blk-write");
    let id = probe.start.option("blk").map(|id| crate::path!("{id}"));
    let store = probe.store()?;
    let mut disk = Disk::connect(store, id.as_ref().map(|id| id.as_str()))?;
    let readonly = disk.info & VDISK_READONLY != 0;
    say!(
        "probe: blk: {} sectors of 512, medium's unit {}, info {:#x}, flush {}",
        disk.sectors,
        disk.sector_size,
        disk.info,
        disk.flush
    );
    let all = PAGES as u64 * SECTORS;
    ensure!(disk.sectors >= all, "the disk is too small for the test");

    let status = disk.request(BLKIF_OP_READ, 0, 1)?;
    ensure!(status == BLKIF_RSP_OKAY, "reading sector 0: {status}");
    let first: [u8; 4] = disk.data.read(0);
    say!("probe: blk: sector 0 begins {first:02x?}");

    let at = write_at.unwrap_or((disk.sectors - all) / SECTORS * SECTORS);
    if readonly {
        let status = disk.request(BLKIF_OP_WRITE, at, 1)?;
        ensure!(status != BLKIF_RSP_OKAY, "a read-only disk was written");
    } else {
        for (pages, salt) in [(1, 1), (PAGES, 2)] {
            write_and_read_back(&mut disk, at, pages, salt)?;
        }
    }
    bad_requests(&mut disk)?;

    let from = clock::now();
    let rounds = 20;
    for _ in 0..rounds {
        let status = disk.request(BLKIF_OP_READ, 0, 1)?;
        ensure!(status == BLKIF_RSP_OKAY, "reading sector 0: {status}");
    }
    let us = (clock::now() - from) / 1_000 / rounds;
    say!("probe: blk: {us} us for each 4 KiB read");
    disk.close(store)
}

fn write_and_read_back(disk: &mut Disk, at: u64, pages: usize, salt: u64) -> Outcome {
    let len = pages * PAGE_SIZE;
    disk.data.fill(0, len, pattern(salt));
    let status = disk.request(BLKIF_OP_WRITE, at, pages)?;
    ensure!(status == BLKIF_RSP_OKAY, "writing {pages} pages: {status}");
    if disk.flush {
        let status = disk.flush()?;
        ensure!(status == BLKIF_RSP_OKAY, "flushing: {status}");
    }
    disk.data.fill(0, len, |_| 0);
    let status = disk.request(BLKIF_OP_READ, at, pages)?;
    ensure!(status == BLKIF_RSP_OKAY, "reading {pages} pages: {status}");
    ensure!(
        holds(disk, pages, pattern(salt)),
        "{pages} pages read back are not those written"
    );
    Ok(())
}

/// Requests that must fail, each alone, with the disk in order afterwards.
fn bad_requests(disk: &mut Disk) -> Outcome {
    let segment = |gref, first_sect, last_sect| BlkifRequestSegment {
        gref,
        first_sect,
        last_sect,
        pad: 0,
    };
    let whole = segment(disk.gref(0), 0, 7);
    // Each wrong request is this good one with one thing changed.
    let good = || BlkifRequest {
        operation: BLKIF_OP_READ,
        nr_segments: 1,
        handle: 0,
        pad: 0,
        id: 0,
        sector_number: 0,
        seg: [whole; PAGES],
    };
    let changed = |change: &dyn Fn(&mut BlkifRequest)| {
        let mut request = good();
        change(&mut request);
        request
    };
    let with = |seg| changed(&|r| r.seg = [seg; PAGES]);
    let at = |sector| changed(&|r| r.sector_number = sector);
    let gref = disk.gref(0);
    for (request, what) in [
        (at(disk.sectors), "a read beyond the end"),
        (at(disk.sectors - 1), "a read across the end"),
        (at(u64::MAX - 3), "a read that wraps"),
        (
            with(segment(GrantRef(511), 0, 7)),
            "a read into a grant that is none",
        ),
        (
            with(segment(GrantRef(u32::MAX), 0, 7)),
            "a read into a grant out of range",
        ),
        (with(segment(gref, 0, 8)), "a segment beyond its page"),
        (
            with(segment(gref, 5, 4)),
            "a segment that ends before it begins",
        ),
        (changed(&|r| r.nr_segments = 12), "12 segments"),
        (changed(&|r| r.operation = 99), "an unknown operation"),
    ] {
        let status = disk.submit(&request)?;
        ensure!(status != BLKIF_RSP_OKAY, "{what} succeeded");
    }
    let status = disk.submit(&good())?;
    ensure!(
        status == BLKIF_RSP_OKAY,
        "a good read after bad requests: {status}"
    );
    Ok(())
}
