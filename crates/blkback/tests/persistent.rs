//! Persistent grants: pages that stay mapped between requests, up to a limit, and are given back in the end.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and makes its own small numbers"
)]

use std::sync::Arc;
use std::time::Duration;

use cantle_abi::PAGE_SIZE;
use cantle_abi::grant_table::GTF_writing;
use cantle_abi::io::blkif::{BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY};
use cantle_blkback::image::{Caching, NullDisk, RawDisk, RawOptions};
use cantle_blkback::test_utils::{
    BACK, BlkFront, FrontOptions, LentPage, Random, Served, Transfer, World, copy_in, wait_until,
};
use cantle_blkback::{BackendOptions, OnError};
use tempfile::NamedTempFile;

const SECTORS: u64 = 4096;

fn persistent() -> FrontOptions {
    FrontOptions {
        persistent: true,
        ..FrontOptions::default()
    }
}

fn keeping(pages: usize) -> BackendOptions {
    BackendOptions {
        persistent_pages: pages,
        max_queues: 4,
        ..BackendOptions::default()
    }
}

fn file() -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    let mut random = Random::new(11);
    let mut bytes = vec![0_u8; SECTORS as usize * 512];
    bytes.fill_with(|| random.below(256) as u8);
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn direct(file: &NamedTempFile) -> Arc<RawDisk> {
    let options = RawOptions {
        caching: Caching::DirectIfPossible,
        ..RawOptions::default()
    };
    Arc::new(RawDisk::open(file.path(), &options).unwrap())
}

fn null() -> Arc<NullDisk> {
    Arc::new(NullDisk { sectors: SECTORS })
}

fn serve(world: &World, keeps: usize) -> Served {
    world.serve(world.backend_of(null(), keeping(keeps)).unwrap())
}

fn maps(world: &World) -> u64 {
    world.guest().table().stats().maps
}

/// The back end says that it is idle by answering; what it lets go of, it has let go of before.
fn is_in_use(world: &World, page: &LentPage) -> bool {
    world.guest().entry_flags(page.gref) & GTF_writing != 0
}

#[test]
fn pages_stay_mapped_for_writing_and_are_given_back_in_the_end() {
    let world = World::new();
    let _disk = serve(&world, 1056);
    let mut front = world.front_with(persistent()).unwrap();
    assert_eq!(front.backend_key("feature-persistent").unwrap(), "1");
    // A write needs the page only for reading; the next request may be a read.
    front.write(0, &[1; 4096]).unwrap();
    let page = front.page(0, 0).unwrap().clone();
    assert!(is_in_use(&world, &page));
    assert!(!world.guest().end_access(page.gref), "it is in use");
    assert_eq!(world.mapped(), 2, "the ring and the page");
    let before = maps(&world);
    for n in 0..100 {
        front.read(n, 4096).unwrap();
        front.write(n, &[2; 512]).unwrap();
    }
    assert_eq!(maps(&world), before, "nothing was mapped again");
    front.close().unwrap();
    assert_eq!(world.mapped(), 0);
}

#[test]
fn only_what_both_sides_want_stays_mapped() {
    for (offered, wanted) in [(false, true), (true, false), (false, false)] {
        let world = World::new();
        let options = BackendOptions {
            persistent: offered,
            ..BackendOptions::default()
        };
        let _disk = world.serve(world.backend_of(null(), options).unwrap());
        let mut front = world
            .front_with(FrontOptions {
                persistent: wanted,
                ..FrontOptions::default()
            })
            .unwrap();
        let said = front.backend_key("feature-persistent").unwrap();
        assert_eq!(said, u8::from(offered).to_string());
        front.write(0, &[1; 45056]).unwrap();
        let page = front.page(0, 3).unwrap();
        assert!(!is_in_use(&world, page));
        assert_eq!(world.mapped(), 1, "the ring");
        assert!(world.guest().end_access(page.gref));
        // The front end takes its grants back when it goes.
        world.guest().grant_access(page.gref, BACK, page.gfn, false);
    }
}

#[test]
fn no_more_stay_mapped_than_the_limit() {
    for limit in [1, 5, 16, 200] {
        let world = World::new();
        let _disk = serve(&world, limit);
        let mut front = world.front_with(persistent()).unwrap();
        for round in 0..4 {
            front
                .random(BLKIF_OP_WRITE, 45056, 32, 200, round + 1)
                .unwrap();
            front
                .random(BLKIF_OP_READ, 4096, 32, 200, round + 1)
                .unwrap();
            // 352 pages were used.
            wait_until(|| world.mapped() == 1 + limit as u64);
        }
        front.close().unwrap();
        assert_eq!(world.mapped(), 0, "{limit}");
    }
}

/// The one that was not used for longest goes: three pages in turn never stay where two are kept, but the one used each time does.
#[test]
fn what_was_not_used_for_longest_goes() {
    let world = World::new();
    let _disk = serve(&world, 2);
    let mut front = world.front_with(persistent()).unwrap();
    let ask = |front: &mut BlkFront, slot| {
        let transfer = Transfer {
            operation: BLKIF_OP_READ,
            sector: 0,
            bytes: 4096,
        };
        let request = front.request(slot, &transfer);
        front.must(&request).unwrap();
        [0, 1, 2].map(|slot| is_in_use(&world, front.page(slot, 0).unwrap()))
    };
    assert_eq!(ask(&mut front, 0), [true, false, false]);
    assert_eq!(ask(&mut front, 1), [true, true, false]);
    assert_eq!(ask(&mut front, 0), [true, true, false]);
    assert_eq!(ask(&mut front, 2), [true, false, true]);
    assert_eq!(ask(&mut front, 1), [false, true, true]);
}

/// Past the page cache, kept pages are known to the kernel by numbers. A number must not pass to another page while a request that names
/// it waits: with few numbers and many pages in flight at once, every request still moves its own bytes.
#[test]
fn numbers_of_pages_are_not_given_away_under_a_request() {
    let file = file();
    let contents = std::fs::read(file.path()).unwrap();
    for keeps in [1, 2, 7, 40] {
        let world = World::new();
        let backend = world.backend_of(direct(&file), keeping(keeps)).unwrap();
        let disk = world.serve(backend);
        let mut front = world.front_with(persistent()).unwrap();
        let mut random = Random::new(keeps as u64);
        for round in 0..200_u64 {
            let places: Vec<_> = (0..32).map(|_| random.below(SECTORS / 8) * 8).collect();
            for (slot, sector) in places.iter().enumerate() {
                let transfer = Transfer {
                    operation: BLKIF_OP_READ,
                    sector: *sector,
                    bytes: 4096,
                };
                let request = front.request(slot, &transfer);
                front.push(&request).unwrap();
            }
            front.kick().unwrap();
            for _ in 0..32 {
                let answer = front.wait_response().unwrap();
                assert_eq!(answer.status, BLKIF_RSP_OKAY, "{keeps} kept, round {round}");
            }
            for (slot, sector) in places.iter().enumerate() {
                let mut page = [0; PAGE_SIZE];
                front.take_from(slot, &mut page);
                let at = *sector as usize * 512;
                assert!(
                    page == contents[at..at + PAGE_SIZE],
                    "{keeps}, {round}, {slot}"
                );
            }
        }
        assert_eq!(disk.stats().snapshot().failed, 0);
    }
}

#[test]
fn a_medium_changes_under_kept_pages() {
    let (one, two) = (file(), NamedTempFile::new().unwrap());
    std::fs::write(two.path(), vec![0x22; SECTORS as usize * 512]).unwrap();
    let contents = std::fs::read(one.path()).unwrap();
    let world = World::new();
    let disk = world.serve(world.backend_of(direct(&one), keeping(64)).unwrap());
    let mut front = world.front_with(persistent()).unwrap();
    for round in 0..20 {
        assert!(
            front.read(8, 4096).unwrap() == contents[4096..8192],
            "{round}"
        );
        assert!(front.read(8, 45056).unwrap() == contents[4096..4096 + 45056]);
        let changed = disk.control().insert(direct(&two));
        changed
            .recv_timeout(Duration::from_secs(20))
            .unwrap()
            .unwrap();
        assert!(front.read(8, 4096).unwrap() == [0x22; 4096]);
        let changed = disk.control().insert(direct(&one));
        changed
            .recv_timeout(Duration::from_secs(20))
            .unwrap()
            .unwrap();
    }
    assert_eq!(disk.stats().snapshot().failed, 0);
}

#[test]
fn what_waits_for_a_stopped_disk_goes_to_the_medium_that_comes() {
    changed_while_stopped(FrontOptions::default());
}

/// The request has a page that the old medium knows by a number; the new one knows none.
#[test]
fn what_waits_with_kept_pages_goes_to_the_medium_that_comes() {
    changed_while_stopped(persistent());
}

fn changed_while_stopped(options: FrontOptions) {
    let (broken, good) = (file(), file());
    let contents = std::fs::read(good.path()).unwrap();
    let world = World::new();
    let stops = BackendOptions {
        on_error: OnError::Stop,
        ..keeping(64)
    };
    let disk = world.serve(world.backend_of(direct(&broken), stops).unwrap());
    let mut front = world.front_with(options).unwrap();
    front.read(8, 4096).unwrap();
    // Somebody makes the file shorter under the disk.
    broken.as_file().set_len(4096).unwrap();
    let transfer = Transfer {
        operation: BLKIF_OP_READ,
        sector: 8,
        bytes: 4096,
    };
    let request = front.request(0, &transfer);
    front.push(&request).unwrap();
    front.kick().unwrap();
    wait_until(|| disk.control().is_stopped());
    disk.control().insert(direct(&good));
    disk.control().resume();
    let answer = front.wait_response_for(Duration::from_secs(5)).unwrap();
    assert_eq!(answer.status, BLKIF_RSP_OKAY);
    let mut page = [0; PAGE_SIZE];
    front.take_from(0, &mut page);
    assert!(page == contents[4096..8192]);
    assert_eq!(disk.stats().snapshot().stops, 1);
}

/// A guest that rewrites a grant which is kept has not agreed to that: the page that was mapped is the one that is used. A new connection
/// sees the new page.
#[test]
fn a_grant_that_is_rewritten_while_it_is_kept_changes_nothing() {
    let file = file();
    let world = World::new();
    let _disk = world.serve(world.backend_of(direct(&file), keeping(64)).unwrap());
    let mut front = world.front_with(persistent()).unwrap();
    front.write(0, &[0xaa; 4096]).unwrap();
    let page = front.page(0, 0).unwrap().clone();
    let other = world.guest().alloc_frame();
    copy_in(&world.guest().page(other), 0, &[0xbb; 4096]);
    let flags = world.guest().entry_flags(page.gref);
    world
        .guest()
        .write_entry(page.gref, flags, BACK, other.0 as u32);
    front.write(8, &[0xcc; 4096]).unwrap();
    let on_disk = std::fs::read(file.path()).unwrap();
    assert!(
        on_disk[4096..8192] == [0xcc; 4096],
        "from the page that was agreed on"
    );
    let before = world.guest().read(other, 0, 4096);
    assert!(before == [0xbb; 4096], "and the other was not touched");
    front.close().unwrap();
    assert_eq!(world.mapped(), 0);
}

#[test]
fn pages_that_may_only_be_read_are_refused_and_nothing_breaks() {
    let world = World::new();
    let disk = serve(&world, 64);
    let mut front = world.front_with(persistent()).unwrap();
    let frame = world.guest().alloc_frame();
    let gref = world.guest().grant(BACK, frame, true);
    for operation in [BLKIF_OP_WRITE, BLKIF_OP_READ] {
        let transfer = Transfer {
            operation,
            sector: 0,
            bytes: 8192,
        };
        let mut request = front.request(0, &transfer);
        request.seg[1].gref = gref;
        assert_eq!(front.ask(&request).unwrap().status, BLKIF_RSP_ERROR);
    }
    front.write(0, &[5; 8192]).unwrap();
    assert_eq!(disk.stats().snapshot().refused, 2);
    assert!(world.guest().ungrant(gref), "it is not kept");
}

#[test]
fn each_queue_keeps_its_own() {
    let world = World::with_memory(2048);
    let _disk = serve(&world, 8);
    let options = FrontOptions {
        queues: 4,
        ..persistent()
    };
    let mut front = world.front_with(options).unwrap();
    for queue in front.queues_mut() {
        queue.random(BLKIF_OP_READ, 45056, 32, 100, 3).unwrap();
    }
    wait_until(|| world.mapped() == 4 + 4 * 8);
    front.close().unwrap();
    assert_eq!(world.mapped(), 0);
}
