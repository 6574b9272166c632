//! Sector sizes, and what is offered of discards.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and makes its own small numbers"
)]

use std::sync::Arc;

use cantle_abi::io::blkif::{
    BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_READ, BLKIF_OP_WRITE,
    BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY,
};
use cantle_blkback::image::{Caching, Geometry, RawDisk, RawFormat, RawOptions};
use cantle_blkback::test_utils::{BACK, BlkFront, FrontError, FrontOptions, Transfer, World};
use cantle_blkback::{BackendOptions, DiskKind, Protocol};
use cantle_xenstore::xenbus::toolstack;
use tempfile::NamedTempFile;

const SECTORS: u64 = 4096;

fn filled(byte: u8) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![byte; SECTORS as usize * 512]).unwrap();
    file
}

fn raw(file: &NamedTempFile, options: RawOptions) -> Arc<RawDisk> {
    Arc::new(RawDisk::open(file.path(), &options).unwrap())
}

fn status(result: Result<(), FrontError>) -> i16 {
    match result {
        Ok(()) => BLKIF_RSP_OKAY,
        Err(FrontError::Status(status)) => status,
        Err(error) => panic!("{error}"),
    }
}

fn ask(front: &mut BlkFront, operation: u8, sector: u64, parts: &[(u8, u8)]) -> i16 {
    let transfer = Transfer {
        operation,
        sector,
        bytes: parts.len() * 4096,
    };
    let mut request = front.request(0, &transfer);
    for (segment, (first, last)) in request.seg.iter_mut().zip(parts) {
        (segment.first_sect, segment.last_sect) = (*first, *last);
    }
    front.ask(&request).unwrap().status
}

/// The kernel's "4Kn": everything is counted in units of 512 bytes, and aligned to 4096.
#[test]
fn a_disk_of_4k_sectors_takes_whole_ones_only() {
    for protocol in [Protocol::Native, Protocol::X86_32] {
        let file = filled(1);
        let options = RawOptions {
            sector_size: Some(4096),
            ..RawOptions::default()
        };
        let world = World::new();
        let backend = world.backend_of(raw(&file, options), BackendOptions::default());
        let disk = world.serve(backend.unwrap());
        let mut front = world
            .front_with(FrontOptions {
                protocol,
                ..FrontOptions::default()
            })
            .unwrap();
        let key = |name| front.backend_key(name).unwrap();
        assert_eq!(key("sector-size"), "4096");
        assert_eq!(key("physical-sector-size"), "4096");
        assert_eq!(key("sectors"), SECTORS.to_string(), "in units of 512 bytes");
        front.write(8, &[2; 8192]).unwrap();
        assert_eq!(front.read(8, 8192).unwrap(), [2; 8192]);
        for operation in [BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_FLUSH_DISKCACHE] {
            for sector in [1, 7, 9, SECTORS - 1] {
                let status = ask(&mut front, operation, sector, &[(0, 7)]);
                assert_eq!(status, BLKIF_RSP_ERROR, "{operation} at {sector}");
            }
            for part in [(0, 0), (0, 3), (1, 7), (7, 7), (4, 7)] {
                let status = ask(&mut front, operation, 8, &[(0, 7), part]);
                assert_eq!(status, BLKIF_RSP_ERROR, "{operation} {part:?}");
            }
            // Two halves that are a whole together are not.
            let halves = ask(&mut front, operation, 8, &[(0, 3), (4, 7)]);
            assert_eq!(halves, BLKIF_RSP_ERROR);
            assert_eq!(ask(&mut front, operation, 8, &[(0, 7); 3]), BLKIF_RSP_OKAY);
        }
        for (sector, count) in [(1, 8), (8, 7), (8, 9), (4, 4)] {
            let discarded = status(front.discard(sector, count, false));
            assert_eq!(discarded, BLKIF_RSP_ERROR, "{sector} {count}");
        }
        front.flush().unwrap();
        assert_eq!(disk.stats().snapshot().failed, 0);
        assert_eq!(file.as_file().metadata().unwrap().len(), SECTORS * 512);
    }
}

/// "512e": what the medium writes at once is a hint.
#[test]
fn a_disk_may_have_larger_physical_sectors() {
    let file = filled(1);
    let format = RawFormat::open(file.path(), &RawOptions::default()).unwrap();
    let physical = cantle_blkback::image::Format::geometry(&format).physical_sector_size;
    let world = World::new();
    let backend = world.backend_of(raw(&file, RawOptions::default()), BackendOptions::default());
    let _disk = world.serve(backend.unwrap());
    let mut front = world.front().unwrap();
    assert_eq!(front.backend_key("sector-size").unwrap(), "512");
    let said = front.backend_key("physical-sector-size").unwrap();
    assert_eq!(said, physical.to_string());
    front.write(3, &[9; 512 * 5]).unwrap();
    assert_eq!(front.read(3, 512 * 5).unwrap(), [9; 512 * 5]);
}

#[test]
fn discards_are_offered_where_the_disk_has_them_and_nobody_says_no() {
    let file = filled(7);
    let cases = [
        (RawOptions::default(), BackendOptions::default(), None, true),
        (
            RawOptions::default(),
            BackendOptions::default(),
            Some("1"),
            true,
        ),
        (
            RawOptions::default(),
            BackendOptions::default(),
            Some("0"),
            false,
        ),
        (
            RawOptions::default(),
            BackendOptions {
                discard: false,
                ..BackendOptions::default()
            },
            Some("1"),
            false,
        ),
        (
            RawOptions {
                read_only: true,
                ..RawOptions::default()
            },
            BackendOptions::default(),
            None,
            false,
        ),
        (
            RawOptions::default(),
            BackendOptions {
                kind: DiskKind::Cdrom,
                ..BackendOptions::default()
            },
            None,
            false,
        ),
    ];
    for (image, options, enable, offered) in cases {
        let world = World::new();
        let client = world.client(BACK).unwrap();
        let keys: Vec<_> = enable
            .map(|value| ("discard-enable", value))
            .into_iter()
            .collect();
        toolstack::create_device(&*client, world.id(), &[], &keys).unwrap();
        let backend = world.backend_of_again(raw(&file, image), options).unwrap();
        let _disk = world.serve(backend);
        let mut front = world.front().unwrap();
        let said = front.backend_key("feature-discard").unwrap();
        assert_eq!(said, u8::from(offered).to_string());
        let granularity = front.backend_key("discard-granularity");
        assert_eq!(granularity.is_ok(), offered);
        if offered {
            assert_eq!(front.backend_key("discard-alignment").unwrap(), "0");
            assert_eq!(front.backend_key("discard-secure").unwrap(), "0");
            front.discard(0, 8, false).unwrap();
            assert_eq!(front.read(0, 4096).unwrap(), [0; 4096]);
        } else {
            let discarded = status(front.discard(64, 8, false));
            assert_eq!(discarded, BLKIF_RSP_EOPNOTSUPP);
            assert_eq!(front.read(64, 4096).unwrap(), [7; 4096]);
        }
        // Never offered here, and so not done (nor half done).
        assert_eq!(status(front.discard(128, 8, true)), BLKIF_RSP_EOPNOTSUPP);
        assert_eq!(front.read(128, 4096).unwrap(), [7; 4096]);
    }
}

/// A secure discard leaves zeroes in place: the file keeps its blocks, which now hold them.
#[test]
fn a_secure_discard_overwrites() {
    discard_securely(Caching::Buffered);
}

#[test]
fn a_secure_discard_overwrites_past_the_page_cache() {
    discard_securely(Caching::DirectIfPossible);
}

fn discard_securely(caching: Caching) {
    use std::os::unix::fs::MetadataExt;
    {
        let file = filled(7);
        file.as_file().sync_all().unwrap();
        let blocks = file.as_file().metadata().unwrap().blocks();
        let options = RawOptions {
            secure_discard: true,
            caching,
            ..RawOptions::default()
        };
        let world = World::new();
        let backend = world.backend_of(raw(&file, options), BackendOptions::default());
        let disk = world.serve(backend.unwrap());
        let mut front = world.front().unwrap();
        assert_eq!(front.backend_key("discard-secure").unwrap(), "1");
        front.discard(8, 2000, true).unwrap();
        let on_disk = std::fs::read(file.path()).unwrap();
        let (before, rest) = on_disk.split_at(8 * 512);
        let (gone, after) = rest.split_at(2000 * 512);
        assert!(gone.iter().all(|byte| *byte == 0));
        assert!(before.iter().chain(after).all(|byte| *byte == 7));
        file.as_file().sync_all().unwrap();
        assert!(
            file.as_file().metadata().unwrap().blocks() >= blocks,
            "written, not freed"
        );
        // One that is not secure frees them.
        front.discard(8, 2000, false).unwrap();
        assert!(file.as_file().metadata().unwrap().blocks() < blocks);
        for (sector, count) in [(SECTORS, 1), (0, SECTORS + 1), (u64::MAX, 2), (8, 0)] {
            let discarded = status(front.discard(sector, count, true));
            assert_eq!(discarded, BLKIF_RSP_ERROR);
        }
        assert_eq!(disk.stats().snapshot().discards, 2);
    }
}

/// The flag of a discard is one bit; the others say nothing.
#[test]
fn other_flags_of_a_discard_say_nothing() {
    let file = filled(7);
    let world = World::new();
    let backend = world.backend_of(raw(&file, RawOptions::default()), BackendOptions::default());
    let _disk = world.serve(backend.unwrap());
    let mut front = world.front().unwrap();
    let discard = cantle_abi::io::blkif::BlkifRequestDiscard {
        operation: BLKIF_OP_DISCARD,
        flag: 0xfe,
        handle: 0,
        pad: 0,
        id: 1,
        sector_number: 8,
        nr_sectors: 8,
    };
    front.must(&discard.into()).unwrap();
    assert_eq!(front.read(8, 4096).unwrap(), [0; 4096]);
    assert!(Geometry::new(SECTORS).contains(8, 8));
}
