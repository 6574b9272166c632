//! QEMU's tools read what is written here, and the other way round.

use std::path::{Path, PathBuf};
use std::process::Command;

use cantle_image::Format;

use super::{Random, options, read_all, sectors};
use crate::bytes::{checksum, put};
use crate::{CreateOptions, Kind, OpenOptions, Vhd};

/// Runs one of QEMU's tools; `None` where it is not there, which is not accepted where `CI` is set.
fn run(tool: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(tool).args(arguments).output() {
        Ok(output) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (said, error) = (text(&output.stdout), text(&output.stderr));
            assert!(
                output.status.success(),
                "{tool} {arguments:?}: {said} {error}"
            );
            Some(said)
        }
        Err(error) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "{tool} is missing: {error}"
            );
            eprintln!(
                "SKIPPED: {tool} is not installed, so nothing is checked against it ({error})"
            );
            None
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Checks that QEMU reads an image as these bytes; false where there is no QEMU.
pub(super) fn reads_as(path: &Path, expected: &[u8]) -> bool {
    let out = path.with_extension("converted");
    let convert = ["convert", "-f", "vpc", "-O", "raw", text(path), text(&out)];
    if run("qemu-img", &convert).is_none() {
        return false;
    }
    let found = std::fs::read(&out).unwrap();
    assert_eq!(found.len(), expected.len(), "the size that QEMU sees");
    assert!(found == expected, "the bytes that QEMU sees");
    true
}

/// Lets QEMU write some runs of bytes, and writes them to a model too.
fn qemu_writes(path: &Path, model: &mut [u8], random: &mut Random) -> Option<()> {
    let mut commands = Vec::new();
    for _ in 0..20 {
        let at = random.below(model.len() as u64 / 512) * 512;
        let len = ((random.below(300) + 1) * 512).min(model.len() as u64 - at);
        let byte = u8::try_from(random.below(255) + 1).unwrap();
        commands.extend(["-c".to_owned(), format!("write -P {byte} {at} {len}")]);
        model[usize::try_from(at).unwrap()..usize::try_from(at + len).unwrap()].fill(byte);
    }
    let mut arguments = vec!["-f", "vpc"];
    arguments.extend(commands.iter().map(String::as_str));
    arguments.push(text(path));
    run("qemu-io", &arguments).map(|_| ())
}

/// As [`qemu_writes`], by this crate.
fn we_write(disk: &Vhd, model: &mut [u8], random: &mut Random) {
    for _ in 0..20 {
        let at = random.below(model.len() as u64 / 512);
        let count = (random.below(300) + 1).min(model.len() as u64 / 512 - at);
        let bytes = sectors(random.next(), count);
        disk.write(at * 512, &bytes).unwrap();
        let at = usize::try_from(at * 512).unwrap();
        model[at..at + bytes.len()].copy_from_slice(&bytes);
    }
}

fn open(path: &Path) -> Vhd {
    Vhd::open_path(path, &OpenOptions::default()).unwrap()
}

fn both_write(path: &Path, model: &mut Vec<u8>, random: &mut Random) -> Option<()> {
    for _ in 0..2 {
        qemu_writes(path, model, random)?;
        let disk = open(path);
        assert!(read_all(&disk) == *model, "what QEMU wrote");
        assert!(disk.check().unwrap().is_clean());
        we_write(&disk, model, random);
        disk.flush().unwrap();
        assert!(reads_as(path, model));
        drop(disk);
    }
    Some(())
}

#[test]
fn images_of_qemu_are_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(4242);
    for subformat in ["dynamic", "fixed"] {
        for force in ["on", "off"] {
            // None of the sizes is one that cylinders, heads and sectors can say.
            for size in [3 << 20, (10 << 20) + 512, (33 << 20) + 7 * 512] {
                let path = folder.path().join("qemu.vhd");
                let how = format!("subformat={subformat},force_size={force}");
                let size = u64::to_string(&size);
                let create = ["create", "-q", "-f", "vpc", "-o", &how, text(&path), &size];
                if run("qemu-img", &create).is_none() {
                    return;
                }
                let disk = open(&path);
                let expected = if force == "on" { b"qem2" } else { b"qemu" };
                assert_eq!(&disk.info().creator, expected);
                assert_eq!(disk.geometry().bytes().to_string() == size, force == "on");
                let mut model = read_all(&disk);
                drop(disk);
                both_write(&path, &mut model, &mut random).unwrap();
                let disk = open(&path);
                disk.grow(model.len() as u64 / 512 + 10_001).unwrap();
                model.resize(model.len() + 10_001 * 512, 0);
                drop(disk);
                both_write(&path, &mut model, &mut random).unwrap();
            }
        }
    }
}

#[test]
fn our_images_are_read_and_written_by_qemu() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(99);
    for kind in [Kind::Fixed, Kind::Dynamic] {
        for (count, block_size) in [
            (1, 2 << 20),
            (20_011, 4096),
            (20_011, 2 << 20),
            (9_999, 1 << 16),
        ] {
            let path = folder
                .path()
                .join(format!("{kind}-{count}-{block_size}.vhd"));
            let options = CreateOptions {
                sectors: Some(count),
                block_size,
                ..options(kind)
            };
            let disk = Vhd::create_path(&path, &options).unwrap();
            let mut model = read_all(&disk);
            if !reads_as(&path, &model) {
                return;
            }
            we_write(&disk, &mut model, &mut random);
            disk.discard(0, disk.geometry().bytes() / 1024 * 512)
                .unwrap();
            model = read_all(&disk);
            disk.flush().unwrap();
            assert!(reads_as(&path, &model));
            drop(disk);
            both_write(&path, &mut model, &mut random).unwrap();
        }
    }
}

#[test]
fn the_size_is_the_one_that_qemu_sees() {
    let folder = tempfile::tempdir().unwrap();
    for creator in [
        b"vpc ", b"qemu", b"qem2", b"win ", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0",
    ] {
        for count in [9_001, 300_000_000] {
            let path: PathBuf = folder.path().join("size.vhd");
            let _ = std::fs::remove_file(&path);
            drop(Vhd::create_path(&path, &CreateOptions::dynamic(count)).unwrap());
            let mut image = std::fs::read(&path).unwrap();
            let end = image.len() - 512;
            for at in [0, end] {
                let footer = &mut image[at..at + 512];
                put(footer, 28, creator);
                let sum = checksum(footer, 64);
                put(footer, 64, &sum.to_be_bytes());
            }
            std::fs::write(&path, &image).unwrap();
            let Some(info) = run(
                "qemu-img",
                &["info", "--output=json", "-f", "vpc", text(&path)],
            ) else {
                return;
            };
            let size = open(&path).geometry().bytes();
            assert!(
                info.contains(&format!("\"virtual-size\": {size},")),
                "{creator:?} {size} {info}"
            );
        }
    }
}
