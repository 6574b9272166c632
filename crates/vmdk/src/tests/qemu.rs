//! The same images, with QEMU's tools.

use std::path::Path;
use std::process::Command;

use cantle_image::Format;

use super::{read_all, read_only};
use crate::{CreateKind, OpenError, Options, Vmdk, create};

/// Whether QEMU's tools are here. Where tests must not be skipped (`CI` is set), their absence is a failure.
pub(super) fn there() -> bool {
    let runs = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    let there = runs("qemu-img") && runs("qemu-io");
    if !there {
        assert!(
            std::env::var_os("CI").is_none(),
            "qemu-img or qemu-io is missing"
        );
        eprintln!("SKIPPED: qemu-img or qemu-io is missing, nothing was compared with QEMU");
    }
    there
}

fn run(tool: &str, args: &[&str]) -> String {
    let out = Command::new(tool).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{tool} {args:?}: {text}{errors}");
    text
}

pub(super) fn check(path: &Path) {
    run(
        "qemu-img",
        &["check", "-q", "-f", "vmdk", path.to_str().unwrap()],
    );
}

fn random(seed: &mut u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *seed >> 24
}

/// 48 MiB and a bit: two grain tables.
const SECTORS: u64 = 96 * 1024 + 8;

/// Writes at random places of the image and of the array.
fn scribble(disk: &Vmdk, model: &mut [u8], seed: &mut u64) {
    for _ in 0..60 {
        let at = random(seed) % (SECTORS - 300);
        let len = usize::try_from((random(seed) % 300 + 1) * 512).unwrap();
        let byte = random(seed).to_le_bytes()[0];
        disk.write(at * 512, &vec![byte; len]).unwrap();
        let from = usize::try_from(at * 512).unwrap();
        model[from..from + len].fill(byte);
        if byte < 20 {
            disk.flush().unwrap();
        }
    }
}

/// The same by `qemu-io`.
fn scribble_by_qemu(path: &str, model: &mut [u8], seed: &mut u64) {
    let mut commands = Vec::new();
    for _ in 0..30 {
        let at = random(seed) % (SECTORS - 300);
        let len = random(seed) % 300 + 1;
        let byte = random(seed).to_le_bytes()[0];
        commands.push(format!("write -P {byte} {} {}", at * 512, len * 512));
        let from = usize::try_from(at * 512).unwrap();
        model[from..from + usize::try_from(len * 512).unwrap()].fill(byte);
    }
    let mut args = vec!["-f", "vmdk"];
    for command in &commands {
        args.extend(["-c", command]);
    }
    args.push(path);
    run("qemu-io", &args);
}

fn same_to_qemu(path: &str, raw: &str, model: &[u8]) {
    std::fs::write(raw, model).unwrap();
    run(
        "qemu-img",
        &["compare", "-f", "vmdk", "-F", "raw", path, raw],
    );
}

#[test]
fn what_we_make_qemu_reads_and_writes() {
    if !there() {
        return;
    }
    let mut seed = 5;
    for kind in [
        CreateKind::SPARSE,
        CreateKind::Sparse { grain: 4096 },
        CreateKind::Sparse { grain: 1 << 20 },
        CreateKind::FLAT,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.vmdk");
        let (text, raw) = (path.to_str().unwrap(), folder.path().join("raw"));
        let raw = raw.to_str().unwrap();
        create(&path, SECTORS, kind).unwrap();
        let mut model = vec![0; usize::try_from(SECTORS * 512).unwrap()];
        check(&path);
        for _ in 0..2 {
            scribble(
                &Vmdk::open(&path, &Options::default()).unwrap(),
                &mut model,
                &mut seed,
            );
            check(&path);
            same_to_qemu(text, raw, &model);
            scribble_by_qemu(text, &mut model, &mut seed);
            let disk = Vmdk::open(&path, &Options::default()).unwrap();
            assert!(read_all(&disk) == model, "{kind:?}");
            assert_eq!(disk.check().unwrap().errors(), 0);
        }
    }
}

#[test]
fn what_qemu_makes_we_read_and_write() {
    if !there() {
        return;
    }
    let mut seed = 9;
    for format in [
        "monolithicSparse",
        "monolithicSparse,zeroed_grain=on",
        "monolithicSparse,compat6=on",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.vmdk");
        let (text, raw) = (path.to_str().unwrap(), folder.path().join("raw"));
        let raw = raw.to_str().unwrap();
        let subformat = format!("subformat={format}");
        let size = (SECTORS * 512).to_string();
        run(
            "qemu-img",
            &["create", "-q", "-f", "vmdk", "-o", &subformat, text, &size],
        );
        let mut model = vec![0; usize::try_from(SECTORS * 512).unwrap()];
        scribble_by_qemu(text, &mut model, &mut seed);
        if format.ends_with("zeroed_grain=on") {
            run("qemu-io", &["-f", "vmdk", "-c", "write -z 0 4M", text]);
            model[..4 << 20].fill(0);
        }
        let disk = Vmdk::open(&path, &Options::default()).unwrap();
        assert!(read_all(&disk) == model, "{format}");
        let report = disk.check().unwrap();
        assert_eq!((report.errors(), report.unequal_tables), (0, 0), "{format}");
        // QEMU loses the place of a grain that it makes one of zeroes.
        let zeroed = format.ends_with("zeroed_grain=on");
        assert_eq!((report.zeroed > 0, report.leaked > 0), (zeroed, zeroed));
        scribble(&disk, &mut model, &mut seed);
        drop(disk);
        check(&path);
        same_to_qemu(text, raw, &model);
    }
}

#[test]
fn disks_of_several_files_by_qemu_are_read_across_the_borders() {
    if !there() {
        return;
    }
    for format in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.vmdk");
        let text = path.to_str().unwrap();
        run(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "vmdk",
                "-o",
                &format!("subformat={format}"),
                text,
                "5G",
            ],
        );
        run(
            "qemu-io",
            &["-f", "vmdk", "-c", "write -P 5 2047M 2M", text],
        );
        let disk = Vmdk::open(&path, &Options::default()).unwrap();
        assert_eq!(disk.geometry().bytes(), 5 << 30);
        let mut bytes = vec![0; 4 << 20];
        disk.read(2046 << 20, &mut bytes).unwrap();
        let model: Vec<u8> = [0, 5, 5, 0]
            .iter()
            .flat_map(|b| vec![*b; 1 << 20])
            .collect();
        assert!(bytes == model);
        disk.write((4 << 30) - 512, &[6; 1024]).unwrap();
        drop(disk);
        check(&path);
        run(
            "qemu-io",
            &[
                "-f",
                "vmdk",
                "-c",
                &format!("read -P 6 {} 1024", (4u64 << 30) - 512),
                text,
            ],
        );
    }
}

#[test]
fn stream_optimized_is_read_and_not_written() {
    if !there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (raw, path) = (folder.path().join("raw"), folder.path().join("d.vmdk"));
    let (mut seed, mut model) = (3, vec![0u8; 5 << 20]);
    model.truncate((5 << 20) - 1024);
    for part in model.chunks_mut(100_000).step_by(3) {
        part.fill_with(|| random(&mut seed).to_le_bytes()[0] & 15);
    }
    std::fs::write(&raw, &model).unwrap();
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "vmdk",
            "-o",
            "subformat=streamOptimized",
            raw.to_str().unwrap(),
            path.to_str().unwrap(),
        ],
    );
    assert!(matches!(
        Vmdk::open(&path, &Options::default()),
        Err(OpenError::ReadOnly(_))
    ));
    let disk = Vmdk::open(&path, &read_only()).unwrap();
    let bytes = read_all(&disk);
    assert!(bytes[..model.len()] == model[..]);
    assert_eq!(disk.check().unwrap().errors(), 0);
    // Nor is a grain that another one's entry names.
    let mut image = std::fs::read(&path).unwrap();
    let at = |image: &[u8], place: usize| {
        u32::from_le_bytes(image[place..place + 4].try_into().unwrap())
    };
    let table = at(&image, at(&image, 56) as usize * 512) as usize * 512;
    assert!(at(&image, table) > 1 && at(&image, table + 4) > 1);
    image.copy_within(table + 4..table + 8, table);
    std::fs::write(folder.path().join("other.vmdk"), image).unwrap();
    let other = Vmdk::open(folder.path().join("other.vmdk"), &read_only()).unwrap();
    assert!(other.read(0, &mut [0; 512]).is_err() && other.read(65536, &mut [0; 512]).is_ok());
    // A grain that is damaged is an error, not other bytes.
    let mut image = std::fs::read(&path).unwrap();
    let at = image.len() / 2;
    image[at..at + 4000].fill(0x55);
    std::fs::write(&path, image).unwrap();
    let disk = Vmdk::open(&path, &read_only()).unwrap();
    let wrong = (0..model.len() / 512).filter(|s| {
        let mut sector = [0; 512];
        disk.read(*s as u64 * 512, &mut sector)
            .is_ok_and(|()| sector[..] != model[s * 512..s * 512 + 512])
    });
    assert_eq!(wrong.count(), 0);
}

#[test]
fn a_delta_by_qemu_is_read_over_its_parent() {
    if !there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (base, child) = (folder.path().join("b.vmdk"), folder.path().join("c.vmdk"));
    create(&base, SECTORS, CreateKind::SPARSE).unwrap();
    let mut model = vec![0; usize::try_from(SECTORS * 512).unwrap()];
    scribble(
        &Vmdk::open(&base, &Options::default()).unwrap(),
        &mut model,
        &mut 77,
    );
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "vmdk",
            "-b",
            base.to_str().unwrap(),
            "-F",
            "vmdk",
            child.to_str().unwrap(),
        ],
    );
    let text = child.to_str().unwrap();
    scribble_by_qemu(text, &mut model, &mut 78);
    let Err(OpenError::Parent {
        hint: Some(hint), ..
    }) = Vmdk::open(&child, &read_only())
    else {
        panic!("opened without its parent");
    };
    assert_eq!(Path::new(&hint), base);
    let below = std::sync::Arc::new(Vmdk::open(&base, &read_only()).unwrap());
    let cid = Some(below.cid());
    let options = Options {
        parent: Some(crate::Parent { format: below, cid }),
        ..Options::default()
    };
    let disk = Vmdk::open(&child, &options).unwrap();
    assert!(read_all(&disk) == model);
    scribble(&disk, &mut model, &mut 79);
    assert!(read_all(&disk) == model);
    drop(disk);
    same_to_qemu(text, folder.path().join("raw").to_str().unwrap(), &model);
}
