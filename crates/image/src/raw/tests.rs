use super::*;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;

use cantle_abi::SharedMemory;
use cantle_abi::ring::HeapPages;
use tempfile::NamedTempFile;

use crate::{ImageError, IoOp, Pages};

fn image(contents: &[u8], options: &RawOptions) -> (NamedTempFile, RawImage) {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(contents).unwrap();
    let image = RawImage::open(file.path(), options).unwrap();
    (file, image)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i / 512 + i % 251).to_le_bytes()[0])
        .collect()
}

fn io(token: u64, op: IoOp, sector: u64, pages: &Arc<HeapPages>, parts: &[(usize, usize)]) -> Io {
    let mut io = Io::new();
    io.begin(token, op, sector);
    for (offset, len) in parts {
        io.push(Pages::Shared(pages.clone()), *offset, *len)
            .unwrap();
    }
    io
}

fn finish(image: &mut RawImage, count: usize) -> Vec<(u64, std::result::Result<(), ImageError>)> {
    let mut done = Vec::new();
    while done.len() < count {
        image.wait(None).unwrap();
        image.completions(&mut done);
    }
    let mut done: Vec<_> = done.iter().map(|c| (c.io.token(), c.result)).collect();
    done.sort_by_key(|(token, _)| *token);
    done
}

fn bytes(pages: &Arc<HeapPages>) -> Vec<u8> {
    let mut copy = vec![0; pages.len()];
    let whole = io(0, IoOp::Read, 0, pages, &[(0, pages.len())]);
    whole.copy_out(0, &mut copy);
    copy
}

#[test]
fn open_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| RawImage::open(&dir.path().join(name), &RawOptions::default());
    assert!(
        matches!(open("missing"), Err(OpenError::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound)
    );
    assert!(matches!(
        RawImage::open(
            dir.path(),
            &RawOptions {
                read_only: true,
                ..RawOptions::default()
            }
        ),
        Err(OpenError::NoDisk { .. })
    ));
    for len in [0, 511, 513] {
        File::create(dir.path().join("odd"))
            .unwrap()
            .set_len(len)
            .unwrap();
        assert!(
            matches!(open("odd"), Err(OpenError::Length { len: found, .. }) if found == len),
            "{len}"
        );
    }
    File::create(dir.path().join("one"))
        .unwrap()
        .set_len(512)
        .unwrap();
    assert_eq!(open("one").unwrap().geometry().sectors, 1);
}

#[test]
fn scattered_read_and_write_transfer_every_byte() {
    for caching in [Caching::Buffered, Caching::DirectIfPossible] {
        let options = RawOptions {
            caching,
            ..RawOptions::default()
        };
        let disk = pattern(64 * 512);
        let (file, mut image) = image(&disk, &options);
        let pages = Arc::new(HeapPages::new(3));
        // Backwards, so that the vectors cannot be merged; the last two can.
        image.queue(io(
            1,
            IoOp::Read,
            5,
            &pages,
            &[(8192, 1024), (512, 512), (4096, 512), (4608, 512)],
        ));
        assert_eq!(finish(&mut image, 1), [(1, Ok(()))]);
        let memory = bytes(&pages);
        assert_eq!(memory[8192..9216], disk[5 * 512..7 * 512]);
        assert_eq!(memory[512..1024], disk[7 * 512..8 * 512]);
        assert_eq!(memory[4096..5120], disk[8 * 512..10 * 512]);
        // The same memory goes back elsewhere.
        image.queue(io(
            2,
            IoOp::Write,
            40,
            &pages,
            &[(8192, 1024), (4096, 1024)],
        ));
        assert_eq!(finish(&mut image, 1), [(2, Ok(()))]);
        image.queue(io(3, IoOp::Flush, 0, &pages, &[]));
        assert_eq!(finish(&mut image, 1), [(3, Ok(()))]);
        let after = std::fs::read(file.path()).unwrap();
        assert_eq!(after[40 * 512..42 * 512], disk[5 * 512..7 * 512]);
        assert_eq!(after[42 * 512..44 * 512], disk[8 * 512..10 * 512]);
        assert_eq!(after[..40 * 512], disk[..40 * 512]);
        assert_eq!(after.len(), disk.len());
    }
}

#[test]
fn what_is_not_on_the_disk_is_refused_here_too() {
    let (file, mut image) = image(&pattern(8 * 512), &RawOptions::default());
    let pages = Arc::new(HeapPages::new(1));
    image.queue(io(1, IoOp::Write, 7, &pages, &[(0, 1024)]));
    image.queue(io(2, IoOp::Read, u64::MAX, &pages, &[(0, 512)]));
    let out = |sector, count| Err(ImageError::OutOfRange { sector, count });
    assert_eq!(
        finish(&mut image, 2),
        [(1, out(7, 2)), (2, out(u64::MAX, 1))]
    );
    assert_eq!(file.as_file().metadata().unwrap().len(), 8 * 512);
}

#[test]
fn read_only_image_is_not_written() {
    let options = RawOptions {
        read_only: true,
        ..RawOptions::default()
    };
    let (_file, mut image) = image(&pattern(8 * 512), &options);
    let pages = Arc::new(HeapPages::new(1));
    image.queue(io(1, IoOp::Write, 0, &pages, &[(0, 512)]));
    image.queue(io(
        2,
        IoOp::Discard {
            sectors: 1,
            secure: false,
        },
        0,
        &pages,
        &[],
    ));
    assert_eq!(
        finish(&mut image, 2),
        [
            (1, Err(ImageError::ReadOnly)),
            (2, Err(ImageError::ReadOnly))
        ]
    );
}

#[test]
fn file_cut_short_is_an_error_and_never_a_short_success() {
    let (file, mut image) = image(&pattern(64 * 512), &RawOptions::default());
    file.as_file().set_len(8 * 512 + 100).unwrap();
    let pages = Arc::new(HeapPages::new(1));
    image.queue(io(1, IoOp::Read, 6, &pages, &[(0, 4096)]));
    let short = ImageError::Short {
        done: 1124,
        wanted: 4096,
    };
    assert_eq!(finish(&mut image, 1), [(1, Err(short))]);
}

#[test]
fn more_requests_than_the_kernel_takes_at_once_all_complete() {
    let options = RawOptions {
        queue_depth: 4,
        ..RawOptions::default()
    };
    let (_file, mut image) = image(&pattern(64 * 512), &options);
    let pages = Arc::new(HeapPages::new(1));
    for token in 0..100 {
        image.queue(io(token, IoOp::Read, token % 60, &pages, &[(0, 512)]));
    }
    let expected: Vec<_> = (0..100).map(|token| (token, Ok(()))).collect();
    assert_eq!(finish(&mut image, 100), expected);
}

#[test]
fn discard_makes_a_hole_or_says_that_it_cannot() {
    let (file, mut image) = image(&pattern(64 * 512), &RawOptions::default());
    let pages = Arc::new(HeapPages::new(1));
    image.queue(io(
        1,
        IoOp::Discard {
            sectors: 16,
            secure: false,
        },
        16,
        &pages,
        &[],
    ));
    let done = finish(&mut image, 1);
    let after = std::fs::read(file.path()).unwrap();
    match done[0].1 {
        Ok(()) => assert_eq!(after[16 * 512..32 * 512], [0; 16 * 512]),
        Err(error) => assert_eq!(error, ImageError::Unsupported),
    }
    assert_eq!(after.len(), 64 * 512);
    assert_eq!(after[..16 * 512], pattern(64 * 512)[..16 * 512]);
}

#[test]
fn wait_wakes_for_its_descriptor_each_time() {
    let (_file, mut image) = image(&pattern(512), &RawOptions::default());
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    for _ in 0..3 {
        rustix::io::write(&event, &1_u64.to_ne_bytes()).unwrap();
        assert!(image.wait(Some(event.as_fd())).unwrap());
        rustix::io::read(&event, &mut [0; 8]).unwrap();
    }
    // A completion wakes as well, and is not taken for the descriptor.
    let pages = Arc::new(HeapPages::new(1));
    image.queue(io(9, IoOp::Read, 0, &pages, &[(0, 512)]));
    let mut done = Vec::new();
    while done.is_empty() {
        assert!(!image.wait(Some(event.as_fd())).unwrap());
        image.completions(&mut done);
    }
}

#[test]
fn an_image_goes_on_in_another_thread() {
    let disk = pattern(64 * 512);
    let (_file, mut image) = image(&disk, &RawOptions::default());
    let pages = Arc::new(HeapPages::new(1));
    let event = rustix::event::eventfd(1, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    for token in 0..4 {
        // Each thread leaves a request in flight, and a poll of the descriptor armed or fired.
        let request = io(token, IoOp::Read, token, &pages, &[(0, 512)]);
        image = std::thread::spawn({
            let event = event.try_clone().unwrap();
            move || {
                image.wait(Some(event.as_fd())).unwrap();
                image.queue(request);
                image.submit().unwrap();
                image
            }
        })
        .join()
        .unwrap();
    }
    let expected: Vec<_> = (0..4).map(|token| (token, Ok(()))).collect();
    assert_eq!(finish(&mut image, 4), expected);
}

#[test]
fn dropping_an_image_waits_for_its_requests() {
    let (_file, mut image) = image(&pattern(64 * 512), &RawOptions::default());
    let pages = Arc::new(HeapPages::new(1));
    for token in 0..32 {
        image.queue(io(token, IoOp::Read, token, &pages, &[(0, 4096)]));
    }
    image.submit().unwrap();
    drop(image);
    assert_eq!(
        Arc::strong_count(&pages),
        1,
        "nobody holds the memory any more"
    );
}
