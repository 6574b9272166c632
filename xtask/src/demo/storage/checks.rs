//! The images when all is over, as QEMU's tools find and read them.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::format::{Format, Tidiness};
use super::history::History;
use super::said::Said;
use super::stage::{DISK, Stage};
use super::{Use, disk_names, file};
use crate::demo::disk::Disk;
use crate::demo::say;
use crate::images::{self, Tools};
use crate::{guests, process, workspace};

/// The parts of `storage.fio` that nothing wrote over.
const FIO_PARTS: [&str; 3] = ["between", "over", "again"];

/// Checks every image; `work` is what the guest said of those that it worked, `history` and `killed` what was durable on the others at last, and
/// when the copies were made.
pub(super) fn all(stage: &Stage, work: &Said, history: &History, killed: &str) -> Result<()> {
    stage.volume.check()?;
    for (format, name) in stage.formats.iter().zip(disk_names()) {
        let of = |what: &str| format!("{what} on {}, {}", format.name(), stage.name());
        let raw = flat(stage, *format, &file(*format, Use::Fio), Tidiness::Whole)?;
        fio(stage, &raw).with_context(|| of("fio's data"))?;
        fs::remove_file(&raw)?;

        let raw = flat(stage, *format, &file(*format, Use::Ext4), Tidiness::Whole)?;
        let sum = work.value(&format!("ext4_sha256_{}", format.name()))?;
        Disk::at(raw.clone())
            .check(sum)
            .with_context(|| of("the file system"))?;
        fs::remove_file(&raw)?;

        let durable = file(*format, Use::Durable);
        for (image, history) in [
            (format!("{durable}.killed"), killed),
            (durable, history.text()),
        ] {
            let raw = flat(stage, *format, &image, Tidiness::MayLeak)?;
            verified(stage, &name, &raw, history).with_context(|| of(&image))?;
            // A check that cannot fail is none.
            let lost = loses_something(&raw, || verified(stage, &name, &raw, history).is_err())?;
            ensure!(lost, "lost data in {} go unnoticed", of(&image));
            fs::remove_file(&raw)?;
        }
        say(&format!(
            "{}: QEMU's tools find the {} images well, and the guest's data in them",
            stage.name(),
            format.name()
        ));
    }
    Ok(())
}

/// Takes an image from the host, has it checked, and its disk as a raw file.
fn flat(stage: &Stage, format: Format, name: &str, tidiness: Tidiness) -> Result<PathBuf> {
    let image = stage.folder.join("image");
    let raw = stage.folder.join("disk");
    stage.volume.take(name, &image)?;
    format
        .check(&image, tidiness)
        .and_then(|()| format.flatten(&image, &raw))
        .with_context(|| format!("{name} of {}", stage.name()))?;
    let _ = fs::remove_file(image);
    Ok(raw)
}

/// The guest's own fio reads what it wrote.
fn fio(stage: &Stage, disk: &Path) -> Result<()> {
    let mut fio = Tools::Storage.command(images::release(stage.guest), "fio")?;
    fio.env("DISK", disk).arg("--verify_only");
    fio.args(FIO_PARTS.map(|part| format!("--section={part}")));
    fio.arg(workspace::asset("storage.fio"));
    process::output(fio.current_dir(&stage.folder)).map(drop)
}

fn verified(stage: &Stage, name: &str, disk: &Path, history: &str) -> Result<()> {
    let said = stage.folder.join("history");
    fs::write(&said, history)?;
    let mut verify = Command::new(guests::program("durable"));
    verify
        .arg("verify")
        .arg(said)
        .arg(format!("{name}={}", disk.display()));
    process::output(&mut verify).map(drop)
}

/// Whether it is noticed that data go missing: zeros come in the place of a mebibyte, and of the next as long as what was there has not been
/// durable, as far as is known.
fn loses_something(disk: &Path, noticed: impl Fn() -> bool) -> Result<bool> {
    let file = OpenOptions::new().read(true).write(true).open(disk)?;
    let (mut bytes, zeros) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for offset in (0..DISK).step_by(bytes.len()) {
        file.read_exact_at(&mut bytes, offset)
            .context("cannot read a copy")?;
        if bytes != zeros {
            file.write_all_at(&zeros, offset)
                .context("cannot spoil a copy")?;
            if noticed() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
