//! Images of QEMU's, and ours in QEMU.

use std::path::Path;
use std::sync::Arc;

use cantle_image::{Extent, Format};

use super::{all, all_mapped, must, pattern, qemu, qemu_fine, text};
use crate::{Backing, BackingName, CreateOptions, Options, Preallocation, Qcow2, create_path};

pub(super) fn open(path: &Path) -> Qcow2 {
    Qcow2::open_path(
        path,
        &Options {
            backing: Backing::Any,
            ..Options::default()
        },
    )
    .unwrap()
}

pub(super) fn raw_copy(path: &Path) -> Vec<u8> {
    let raw = path.with_extension("raw");
    must(
        "qemu-img",
        &[
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            text(path),
            text(&raw),
        ],
    );
    std::fs::read(raw).unwrap()
}

pub(super) fn create_qemu(path: &Path, options: &str, size: &str) {
    must(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            options,
            text(path),
            size,
        ],
    );
}

const SHAPES: [&str; 9] = [
    "cluster_size=64k",
    "cluster_size=512",
    "cluster_size=4k,refcount_bits=1",
    "cluster_size=2M",
    "compat=0.10",
    "cluster_size=4k,refcount_bits=64",
    "cluster_size=64k,refcount_bits=8,lazy_refcounts=on",
    "cluster_size=4k,preallocation=metadata",
    "cluster_size=4k,preallocation=falloc",
];

#[test]
fn images_of_qemu_are_read_and_written() {
    if !qemu() {
        return;
    }
    for shape in SHAPES {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.qcow2");
        create_qemu(&path, shape, "9M");
        must(
            "qemu-io",
            &[
                "-f",
                "qcow2",
                "-c",
                "write -P 3 70k 300k",
                "-c",
                "write -z 1M 128k",
                "-c",
                "write -P 7 8M 1M",
                text(&path),
            ],
        );
        let image = open(&path);
        assert!(all(&image) == raw_copy(&path), "{shape}");
        assert!(all_mapped(&image) == raw_copy(&path), "{shape}");
        image.write(100 << 10, &pattern(1, 100 << 10)).unwrap();
        image.write((1 << 20) + 512, &pattern(2, 1024)).unwrap();
        image.write(5 << 20, &pattern(3, 1 << 20)).unwrap();
        image.discard(8 << 20, 512 << 10).unwrap();
        image.grow(10 << 11).unwrap();
        image.write(9 << 20, &pattern(4, 1 << 19)).unwrap();
        image.flush().unwrap();
        qemu_fine(&path);
        assert!(all(&image) == raw_copy(&path), "{shape}");
        drop(image);
        must(
            "qemu-io",
            &[
                "-f",
                "qcow2",
                "-c",
                "write -P 9 0 200k",
                "-c",
                "discard 5M 300k",
                text(&path),
            ],
        );
        qemu_fine(&path);
        assert!(all(&open(&path)) == raw_copy(&path), "{shape}");
    }
}

#[test]
fn our_images_are_qemu_s_too() {
    if !qemu() {
        return;
    }
    for bits in [9, 12, 16, 21] {
        for preallocation in [Preallocation::Off, Preallocation::Metadata] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("disk.qcow2");
            let options = CreateOptions {
                cluster_size: 1 << bits,
                preallocation,
                ..CreateOptions::new((40 << 20) + 1536)
            };
            create_path(&path, &options).unwrap();
            qemu_fine(&path);
            must(
                "qemu-io",
                &["-f", "qcow2", "-c", "write -P 5 10M 2M", text(&path)],
            );
            let image = open(&path);
            let mapped = image.map(11 << 20, 4096).unwrap();
            assert!(matches!(mapped.extent, Extent::Data { writable: true, .. }));
            image.write((40 << 20) + 512, &pattern(8, 1024)).unwrap();
            image.flush().unwrap();
            qemu_fine(&path);
            assert!(all(&image) == raw_copy(&path));
            let report = image.check(false).unwrap();
            assert_eq!((report.errors, report.leaks), (0, 0));
        }
    }
}

#[test]
fn compressed_clusters_are_read_and_overwritten() {
    if !qemu() {
        return;
    }
    for shape in [
        "compression_type=zlib",
        "compression_type=zstd",
        "compression_type=zlib,cluster_size=4k",
        "compression_type=zstd,cluster_size=2M",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (raw, path) = (folder.path().join("raw"), folder.path().join("disk.qcow2"));
        let mut bytes: Vec<u8> = (0..3 << 20)
            .map(|at: u32| (at / 1000 % 251).to_le_bytes()[0])
            .collect();
        bytes[1 << 20..(1 << 20) + 200_000].copy_from_slice(&pattern(1, 200_000));
        std::fs::write(&raw, &bytes).unwrap();
        must(
            "qemu-img",
            &[
                "convert",
                "-c",
                "-f",
                "raw",
                "-O",
                "qcow2",
                "-o",
                shape,
                text(&raw),
                text(&path),
            ],
        );
        let image = open(&path);
        assert!(image.check(false).unwrap().compressed > 0);
        assert!(
            all(&image) == bytes && all_mapped(&image) == bytes,
            "{shape}"
        );
        for (at, len) in [(5120, 512), (1 << 20, 512 << 10), (300 << 10, 130 << 10)] {
            let new = pattern(at, len);
            image.write(at, &new).unwrap();
            let at = usize::try_from(at).unwrap();
            bytes[at..at + len].copy_from_slice(&new);
        }
        image.discard(2 << 20, 1 << 19).unwrap();
        image.flush().unwrap();
        qemu_fine(&path);
        assert!(raw_copy(&path) == all(&image));
        assert!(all(&image)[..2 << 20] == bytes[..2 << 20]);
    }
}

#[test]
fn a_chain_is_the_same_for_qemu() {
    if !qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (base, top) = (
        folder.path().join("base.qcow2"),
        folder.path().join("top.qcow2"),
    );
    create_qemu(&base, "cluster_size=4k", "4M");
    must(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 3 0 4M", text(&base)],
    );
    let backing = Some(BackingName {
        name: "base.qcow2".into(),
        format: Some("qcow2".into()),
    });
    create_path(
        &top,
        &CreateOptions {
            backing,
            ..CreateOptions::new(6 << 20)
        },
    )
    .unwrap();
    let image: Arc<dyn Format> = Arc::new(open(&top));
    image.write(100 << 10, &pattern(1, 1024)).unwrap();
    image.write((4 << 20) - 512, &pattern(2, 1024)).unwrap();
    image.discard(1 << 20, 128 << 10).unwrap();
    image.flush().unwrap();
    qemu_fine(&top);
    assert!(all(&*image) == raw_copy(&top) && all_mapped(&*image) == raw_copy(&top));
}
