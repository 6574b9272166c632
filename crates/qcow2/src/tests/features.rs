//! What an image may have besides data.

use cantle_image::{Extent, Format};

use super::interop::{create_qemu, open, raw_copy};
use super::{all, must, pattern, qemu, qemu_check, qemu_fine, text};
use crate::{CreateOptions, HeaderError, OpenError, Options, Qcow2, create_path};

#[test]
fn internal_snapshots_keep_what_they_hold() {
    if !qemu() {
        return;
    }
    for shape in [
        "cluster_size=64k",
        "cluster_size=512",
        "compat=0.10,cluster_size=4k",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.qcow2");
        create_qemu(&path, shape, "4M");
        must(
            "qemu-io",
            &["-f", "qcow2", "-c", "write -P 3 0 2M", text(&path)],
        );
        let before = raw_copy(&path);
        must("qemu-img", &["snapshot", "-c", "then", text(&path)]);
        let image = open(&path);
        let mapped = image.map(0, 512).unwrap();
        assert!(
            matches!(
                mapped.extent,
                Extent::Data {
                    writable: false,
                    ..
                }
            ),
            "{mapped:?}"
        );
        image.write(0, &pattern(1, 100 << 10)).unwrap();
        image.write(300 << 10, &pattern(2, 512)).unwrap();
        image.discard(1 << 20, 1 << 18).unwrap();
        image.flush().unwrap();
        assert!(all(&image) == raw_copy(&path));
        let report = image.check(false).unwrap();
        assert_eq!((report.errors, report.leaks), (0, 0), "{shape} {report:?}");
        drop(image);
        qemu_fine(&path);
        must("qemu-img", &["snapshot", "-a", "then", text(&path)]);
        assert!(raw_copy(&path) == before);
        qemu_fine(&path);
    }
}

#[test]
fn what_cannot_be_served_is_refused_by_name() {
    if !qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let refused = |options: &str, wanted: HeaderError| {
        let path = folder.path().join("disk.qcow2");
        create_qemu(&path, options, "4M");
        match Qcow2::open_path(&path, &Options::default()) {
            Err(OpenError::Header(error)) => assert_eq!(error, wanted),
            other => panic!("{other:?}"),
        }
    };
    refused("extended_l2=on,cluster_size=16k", HeaderError::ExtendedL2);
    let data = format!("data_file={}", text(&folder.path().join("data")));
    refused(&data, HeaderError::ExternalData);
}

#[test]
fn an_image_that_was_not_closed_is_repaired() {
    if !qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    create_qemu(&path, "lazy_refcounts=on,cluster_size=4k", "4M");
    // It ends itself before the counts are written.
    super::run(
        "qemu-io",
        &[
            "-f",
            "qcow2",
            "-c",
            "write -P 3 0 1M",
            "-c",
            "flush",
            "-c",
            "abort",
            text(&path),
        ],
    );
    let head = std::fs::read(&path).unwrap();
    assert_eq!(head[79] & 1, 1, "the image is not marked");
    assert_ne!(qemu_check(&path).0, 0);
    let image = open(&path);
    image.write(2 << 20, &pattern(1, 1 << 20)).unwrap();
    image.flush().unwrap();
    qemu_fine(&path);
    assert_eq!(all(&image)[..1 << 20], vec![3; 1 << 20]);
}

#[test]
fn an_image_marked_corrupt_is_only_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    create_path(&path, &CreateOptions::new(1 << 20)).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[79] |= 2;
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(
        Qcow2::open_path(&path, &Options::default()),
        Err(OpenError::Corrupt)
    ));
    let image = Qcow2::open_path(
        &path,
        &Options {
            read_only: true,
            ..Options::default()
        },
    )
    .unwrap();
    assert!(image.write(0, &[0; 512]).is_err());
    assert_eq!(all(&image), vec![0; 1 << 20]);
}
