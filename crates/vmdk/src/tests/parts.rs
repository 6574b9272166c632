//! Images of several files, parents, and what descriptors may name.

use std::path::Path;
use std::sync::Arc;

use cantle_image::{Extent, Format};

use super::{open, read_all, sparse_on};
use crate::test_utils::Memory;
use crate::{CreateError, CreateKind, OpenError, Options, Parent, Vmdk, create};

fn descriptor(kind: &str, parent: &str, extents: &str) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID={parent}\ncreateType=\"{kind}\"\n{extents}\n"
    )
}

fn custom(extents: &str) -> String {
    descriptor("custom", "ffffffff", extents)
}

fn open_text(folder: &Path, text: &str) -> Result<Vmdk, OpenError> {
    let path = folder.join("d.vmdk");
    std::fs::write(&path, text).unwrap();
    Vmdk::open(path, &Options::default())
}

#[test]
fn extents_follow_each_other() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), [1; 4 * 512]).unwrap();
    create(
        folder.path().join("s.vmdk"),
        100,
        CreateKind::Sparse { grain: 4096 },
    )
    .unwrap();
    let text = custom("RW 2 FLAT \"a\" 2\nRW 100 SPARSE \"s.vmdk\"\nRW 2 FLAT \"a\" 0");
    let disk = open_text(folder.path(), &text).unwrap();
    assert_eq!(disk.geometry().sectors, 104);
    disk.write(512, &[2; 102 * 512]).unwrap();
    let bytes = read_all(&disk);
    assert!(bytes[..512].iter().all(|b| *b == 1) && bytes[512..103 * 512].iter().all(|b| *b == 2));
    assert_eq!(disk.files().len(), 2);
    let file = |at| match disk.map(at, 512).unwrap().extent {
        Extent::Data { file, .. } => Some(file),
        _ => None,
    };
    assert_eq!(
        (file(0), file(1024), file(102 * 512)),
        (Some(0), Some(1), Some(0))
    );
    drop(disk);
    let a = std::fs::read(folder.path().join("a")).unwrap();
    assert_eq!([a[0], a[512], a[1024], a[1536]], [2, 1, 1, 2]);
}

#[test]
fn descriptors_name_only_files_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("in");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(folder.path().join("secret"), [1; 512]).unwrap();
    std::os::unix::fs::symlink("../secret", inside.join("link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, inside.join("pipe"), rustix::fs::Mode::RWXU).unwrap();
    let flat = |name: &str| custom(&format!("RW 1 FLAT \"{name}\" 0"));
    let absolute = folder.path().join("secret");
    for name in ["../secret", absolute.to_str().unwrap(), "..", ".", "d.vmdk"] {
        let error = open_text(&inside, &flat(name)).unwrap_err();
        assert!(matches!(error, OpenError::Name(_)), "{name}: {error}");
    }
    for name in ["link", "pipe", "nothing"] {
        let error = open_text(&inside, &flat(name)).unwrap_err();
        assert!(matches!(error, OpenError::Open { .. }), "{name}: {error}");
    }
    // Whoever wrote the descriptor oneself may.
    for name in ["link", "../secret"] {
        std::fs::write(inside.join("d.vmdk"), flat(name)).unwrap();
        let options = Options {
            any_extent: true,
            ..Options::default()
        };
        assert_eq!(
            read_all(&Vmdk::open(inside.join("d.vmdk"), &options).unwrap()),
            [1; 512]
        );
    }
}

#[test]
fn extents_over_each_other_and_short_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), [1; 4 * 512]).unwrap();
    let open = |extents: &str| open_text(folder.path(), &custom(extents)).unwrap_err();
    assert!(matches!(
        open("RW 2 FLAT \"a\" 0\nRW 2 FLAT \"a\" 1"),
        OpenError::Name(_)
    ));
    assert!(matches!(
        open("RW 5 FLAT \"a\" 0"),
        OpenError::Size { there: 4, .. }
    ));
    assert!(matches!(
        open("RW 1 FLAT \"a\" 4"),
        OpenError::Size { there: 0, .. }
    ));
    assert!(matches!(
        open("RW 1 FLAT \"a\" 18446744073709551615"),
        OpenError::Size { .. }
    ));
    assert!(matches!(open("RW 1 VMFSRAW \"a\""), OpenError::Kind(_)));
    assert!(matches!(
        open("NOACCESS 1 FLAT \"a\" 0"),
        OpenError::Kind(_)
    ));
    assert!(matches!(
        open("RDONLY 1 FLAT \"a\" 0"),
        OpenError::ReadOnly(_)
    ));
    assert!(matches!(open("RW 1 ZERO"), OpenError::ReadOnly(_)));
    assert!(matches!(
        open("RW 1 SPARSE \"a\""),
        OpenError::Sparse { .. }
    ));
}

#[test]
fn a_flat_extent_that_a_guest_gives_a_header_stays_flat() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.vmdk");
    create(&path, 8, CreateKind::FLAT).unwrap();
    let evil = custom("RW 8 FLAT \"../../etc/passwd\" 0");
    let mut sector = evil.into_bytes();
    sector.resize(512, 0);
    for first in [sector, b"KDMV".repeat(128)] {
        Vmdk::open(&path, &Options::default())
            .unwrap()
            .write(0, &first)
            .unwrap();
        let disk = Vmdk::open(&path, &Options::default()).unwrap();
        assert_eq!(disk.geometry().sectors, 8);
        assert_eq!(read_all(&disk)[..512], first);
    }
}

#[test]
fn two_cannot_write_one_image() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.vmdk");
    create(&path, 800, CreateKind::SPARSE).unwrap();
    let one = Vmdk::open(&path, &Options::default()).unwrap();
    assert!(matches!(
        Vmdk::open(&path, &Options::default()),
        Err(OpenError::Open { .. })
    ));
    assert!(Vmdk::open(&path, &super::read_only()).is_ok());
    drop(one);
    assert!(Vmdk::open(&path, &Options::default()).is_ok());
}

#[test]
fn a_delta_reads_its_parent_and_needs_it() {
    let below = Memory::default();
    sparse_on(&below, 40);
    open(&below).write(0, &[1; 24 * 512]).unwrap();
    let below = Arc::new(open(&below));
    let cid = below.cid();

    // A child is an image whose descriptor names a parent; longer than it, and in grains of the same size.
    let memory = Memory::default();
    sparse_on(&memory, 64);
    let mut bytes = memory.contents();
    let text = String::from_utf8(bytes[512..1024].to_vec()).unwrap();
    bytes[512..1024].copy_from_slice(
        text.replace("parentCID=ffffffff", &format!("parentCID={cid:08x}"))
            .as_bytes(),
    );
    let memory = Memory::new(&bytes);
    let with = |parent: Option<Option<u32>>| {
        let parent = parent.map(|cid| Parent {
            format: below.clone(),
            cid,
        });
        let options = Options {
            parent,
            ..Options::default()
        };
        Vmdk::open_on(memory.clone(), super::no_extents, &options)
    };
    assert!(matches!(with(None), Err(OpenError::Parent { cid: named, .. }) if named == cid));
    let wrong = cid ^ 1;
    assert!(
        matches!(with(Some(Some(wrong))), Err(OpenError::WrongParent { wanted, given }) if (wanted, given) == (cid, wrong))
    );

    let disk = with(Some(Some(cid))).unwrap();
    let mut model = vec![0; 64 * 512];
    model[..24 * 512].fill(1);
    assert!(read_all(&disk) == model);
    assert!(matches!(
        disk.map(0, 512).unwrap().extent,
        Extent::Data {
            file: 1,
            writable: false,
            ..
        }
    ));
    assert_eq!(disk.map(40 * 512, 24 * 512).unwrap().extent, Extent::Zero);
    for (sector, count) in [(3, 2), (20, 8), (38, 4), (63, 1)] {
        disk.write(sector * 512, &vec![2; count * 512]).unwrap();
        let from = usize::try_from(sector * 512).unwrap();
        model[from..from + count * 512].fill(2);
    }
    assert!(read_all(&disk) == model);
    drop(disk);
    assert!(read_all(&with(Some(None)).unwrap()) == model);
    assert!(read_all(&*below)[3 * 512..5 * 512].iter().all(|b| *b == 1));

    // Nor is a parent given to who has none.
    let options = Options {
        parent: Some(Parent {
            format: below.clone(),
            cid: None,
        }),
        ..Options::default()
    };
    let alone = Memory::default();
    sparse_on(&alone, 8);
    assert!(matches!(
        Vmdk::open_on(alone, super::no_extents, &options),
        Err(OpenError::WrongParent { .. })
    ));
}

#[test]
fn a_flat_image_grows_and_a_sparse_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.vmdk");
    create(&path, 99, CreateKind::Flat { preallocate: true }).unwrap();
    let disk = Vmdk::open(&path, &Options::default()).unwrap();
    disk.write(98 * 512, &[1; 512]).unwrap();
    assert!(disk.grow(98).is_err());
    disk.grow(99).unwrap();
    disk.grow(12345).unwrap();
    assert_eq!(disk.geometry().sectors, 12345);
    disk.write(12344 * 512, &[2; 512]).unwrap();
    drop(disk);
    let disk = Vmdk::open(&path, &Options::default()).unwrap();
    let bytes = read_all(&disk);
    assert_eq!(
        (
            bytes.len(),
            bytes[98 * 512],
            bytes[99 * 512],
            bytes[12344 * 512]
        ),
        (12345 * 512, 1, 0, 2)
    );

    let sparse = folder.path().join("s.vmdk");
    create(&sparse, 99, CreateKind::SPARSE).unwrap();
    let error = Vmdk::open(&sparse, &Options::default())
        .unwrap()
        .grow(100)
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
}

#[test]
fn what_cannot_be_made_is_refused_and_nothing_is_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.vmdk");
    for (sectors, kind) in [
        (0, CreateKind::SPARSE),
        (0, CreateKind::FLAT),
        (1 << 32, CreateKind::SPARSE),
        (1 << 60, CreateKind::FLAT),
    ] {
        assert!(
            matches!(create(&path, sectors, kind), Err(CreateError::Size { .. })),
            "{sectors} {kind:?}"
        );
    }
    for grain in [0, 512, 5000, 2 << 20] {
        assert!(matches!(
            create(&path, 8, CreateKind::Sparse { grain }),
            Err(CreateError::Grain(_))
        ));
    }
    assert!(matches!(
        create(folder.path().join("a\"b"), 8, CreateKind::FLAT),
        Err(CreateError::Name(_))
    ));
    std::fs::write(folder.path().join("e-flat.vmdk"), "mine").unwrap();
    assert!(matches!(
        create(folder.path().join("e.vmdk"), 8, CreateKind::FLAT),
        Err(CreateError::Host { .. })
    ));
    std::fs::write(&path, "mine").unwrap();
    assert!(create(&path, 8, CreateKind::FLAT).is_err());
    let mut names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["d.vmdk", "e-flat.vmdk"], "no half image is left");
    // Nearly 2 TiB is made at once, and cheap.
    let large = folder.path().join("l.vmdk");
    create(&large, (1 << 32) - (1 << 20), CreateKind::SPARSE).unwrap();
    let disk = Vmdk::open(&large, &Options::default()).unwrap();
    disk.write(disk.geometry().bytes() - 512, &[7; 512])
        .unwrap();
    assert_eq!(
        disk.map(0, disk.geometry().bytes()).unwrap().extent,
        Extent::Zero
    );
}
