use std::path::Path;
use std::process::Command;

use cantle_image::test_utils::Driven;
use cantle_image::{CacheMode, Disk};

use crate::{
    CreateSpec, DiskError, DiskSpec, ImageFormat, Overlay, Parents, create, open, open_format,
    probe,
};

const SIZE: u64 = 4 << 20;

fn made(folder: &Path, format: ImageFormat) -> DiskSpec {
    let path = folder.join(format!("disk.{format}"));
    create(&path, &CreateSpec::new(format, SIZE)).unwrap();
    DiskSpec::new(path, format)
}

#[test]
fn every_format_in_every_cache_mode() {
    let folder = tempfile::tempdir().unwrap();
    for format in ImageFormat::ALL {
        let mut spec = made(folder.path(), format);
        for cache in CacheMode::ALL {
            spec.cache = cache;
            let disk = match open(&spec) {
                // Not every file system can go past the page cache.
                Err(_) if cache == CacheMode::None => continue,
                disk => disk.unwrap(),
            };
            assert_eq!(disk.disk().geometry().bytes(), SIZE);
            let mut queues = [0; 2].map(|_| Driven::new(disk.disk()).unwrap());
            for (n, queue) in queues.iter_mut().enumerate() {
                let value = u8::try_from(n).unwrap() + 1;
                queue.write(8 * n as u64, &[value; 4096]).unwrap();
                queue.flush().unwrap();
            }
            assert_eq!(queues[0].read(8, 4096).unwrap(), [2; 4096]);
            drop((queues, disk));
        }
        let mut bytes = [9; 12288];
        let format = open_format(&spec.path, format, true, &Parents::Refuse).unwrap();
        format.read(0, &mut bytes).unwrap();
        assert_eq!(bytes[..4096], [1; 4096]);
        assert_eq!(bytes[4096..8192], [2; 4096]);
        assert_eq!(bytes[8192..], [0; 4096]);
    }
}

#[test]
fn a_format_is_recognised_and_named() {
    let folder = tempfile::tempdir().unwrap();
    for format in ImageFormat::ALL {
        let spec = made(folder.path(), format);
        assert_eq!(probe(&spec.path).unwrap(), format);
        assert_eq!(ImageFormat::by_name(&spec.path), format);
        assert_eq!(format.name().parse(), Ok(format));
    }
    assert_eq!("vpc".parse(), Ok(ImageFormat::Vhd));
    assert!("VHDX".parse::<ImageFormat>().is_err());
}

#[test]
fn one_writes_or_many_read() {
    let folder = tempfile::tempdir().unwrap();
    let spec = made(folder.path(), ImageFormat::Raw);
    let reading = DiskSpec {
        read_only: true,
        ..spec.clone()
    };
    let writer = open(&spec).unwrap();
    assert!(matches!(open(&spec), Err(DiskError::Locked { .. })));
    assert!(matches!(open(&reading), Err(DiskError::Locked { .. })));
    let unlocked = DiskSpec {
        lock: false,
        ..spec.clone()
    };
    drop(open(&unlocked).unwrap());
    drop(writer);
    let readers = [open(&reading).unwrap(), open(&reading).unwrap()];
    assert!(matches!(open(&spec), Err(DiskError::Locked { .. })));
    drop(readers);
    open(&spec).unwrap();
}

/// What QEMU's tools are told by our locks.
#[test]
fn qemu_keeps_to_our_locks_and_we_to_its() {
    let folder = tempfile::tempdir().unwrap();
    let spec = made(folder.path(), ImageFormat::Raw);
    let writes = |path: &Path| {
        Command::new("qemu-io")
            .args(["-f", "raw", "-c", "write 0 512"])
            .arg(path)
            .output()
    };
    if writes(&spec.path).is_err() {
        assert!(std::env::var_os("CI").is_none(), "qemu-io is missing");
        eprintln!("NOT TESTED: qemu-io is missing");
        return;
    }
    let disk = open(&spec).unwrap();
    let said = writes(&spec.path).unwrap();
    assert!(
        String::from_utf8_lossy(&said.stderr).contains("lock"),
        "{said:?}"
    );
    drop(disk);
    assert!(writes(&spec.path).unwrap().status.success());
}

#[test]
fn an_overlay_takes_the_writes_and_goes_or_stays() {
    let folder = tempfile::tempdir().unwrap();
    let golden = made(folder.path(), ImageFormat::Vhd);
    {
        let disk = open(&golden).unwrap();
        let mut queue = Driven::new(disk.disk()).unwrap();
        queue.write(0, &[1; 8192]).unwrap();
    }
    let before = std::fs::read(&golden.path).unwrap();
    let path = folder.path().join("private");
    for keep in [false, true] {
        let spec = DiskSpec {
            read_cache: Some(folder.path().join("cache")),
            overlay: Some(Overlay {
                path: path.clone(),
                keep,
            }),
            ..golden.clone()
        };
        let disk = open(&spec).unwrap();
        let mut queue = Driven::new(disk.disk()).unwrap();
        assert_eq!(queue.read(0, 8192).unwrap(), [1; 8192]);
        queue.write(0, &[2; 512]).unwrap();
        queue.flush().unwrap();
        assert_eq!(queue.read(0, 512).unwrap(), [2; 512]);
        assert_eq!(queue.read(1, 512).unwrap(), [1; 512]);
        drop((queue, disk));
        assert_eq!(path.exists(), keep);
        if keep {
            let disk = open(&spec).unwrap();
            let mut queue = Driven::new(disk.disk()).unwrap();
            assert_eq!(queue.read(0, 512).unwrap(), [2; 512], "kept");
        }
    }
    assert_eq!(std::fs::read(&golden.path).unwrap(), before);
    let uncovered = DiskSpec {
        read_cache: Some(folder.path().join("cache")),
        ..golden
    };
    assert!(matches!(open(&uncovered), Err(DiskError::Combination(_))));
}

#[test]
fn changes_are_tracked_over_sessions() {
    let folder = tempfile::tempdir().unwrap();
    let spec = DiskSpec {
        track_changes: Some(folder.path().join("changes")),
        ..made(folder.path(), ImageFormat::Qcow2)
    };
    let first = {
        let disk = open(&spec).unwrap();
        let changes = disk.changes().unwrap();
        let id = changes.checkpoint(disk.live().unwrap()).unwrap();
        let mut queue = Driven::new(disk.disk()).unwrap();
        queue.write(1024, &[1; 512]).unwrap();
        id
    };
    let disk = open(&spec).unwrap();
    let changed = disk.changes().unwrap().changed_since(first).unwrap();
    let mut extents = changed.extents();
    assert_eq!(extents.next(), Some(524_288..589_824));
    assert_eq!(extents.next(), None);
}

#[test]
fn a_disk_grows_where_its_format_can() {
    let folder = tempfile::tempdir().unwrap();
    for format in [ImageFormat::Raw, ImageFormat::Qcow2, ImageFormat::Vhd] {
        let disk = open(&made(folder.path(), format)).unwrap();
        let mut queue = Driven::new(disk.disk()).unwrap();
        let sectors = 2 * SIZE / 512;
        assert!(queue.read(sectors - 8, 4096).is_err());
        disk.grow(sectors).unwrap();
        assert_eq!(
            queue.read(sectors - 8, 4096).unwrap(),
            [0; 4096],
            "{format}"
        );
        assert!(disk.grow(8).is_err());
    }
}

#[test]
fn what_an_image_stands_on_is_not_written_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    for format in [ImageFormat::Qcow2, ImageFormat::Vhd] {
        let parent = made(folder.path(), format);
        let child = |name: &str| {
            let path = folder.path().join(format!("{name}.{format}"));
            let spec = CreateSpec {
                parent: Some((parent.path.clone(), format)),
                ..CreateSpec::new(format, SIZE)
            };
            create(&path, &spec).unwrap();
            DiskSpec {
                parents: Parents::SameFolder,
                ..DiskSpec::new(path, format)
            }
        };
        let (one, two) = (child("one"), child("two"));
        let disks = [open(&one).unwrap(), open(&two).unwrap()];
        assert!(matches!(open(&parent), Err(DiskError::Locked { .. })));
        drop(disks);
        let writer = open(&parent).unwrap();
        let refused = open(&one).unwrap_err();
        assert!(
            matches!(&refused, DiskError::Locked { path } if *path == parent.path),
            "{refused}"
        );
        drop(writer);
        open(&one).unwrap();
    }
}
