//! `commit`.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use cantle_disk::{ImageFormat, open_format};
use cantle_image::Format as _;

use crate::chain;
use crate::cli::{Cli, Commit};
use crate::copy::{Copy, Zeroes};
use crate::image::{Below, Image, choose, lock};
use crate::interrupt::Interrupt;
use crate::note;
use crate::progress::Progress;

/// So many zeroes are not written as data, where the parent can have them as zeroes.
const SPARSE: usize = 4096;

pub(crate) fn commit(cli: &Cli, args: &Commit) -> Result<u8> {
    let interrupt = Interrupt::watch()?;
    let format = choose(&args.file, args.format)?;
    let shown = args.file.display();
    ensure!(
        matches!(format, ImageFormat::Vhd | ImageFormat::Qcow2),
        "cannot commit {shown}: {format} images have no parents here"
    );
    // As if for writing: what it has must not change meanwhile.
    let _own = lock(&args.file, false)?;
    let chain = chain::parents(&args.file, format, cli.parents)?;
    let (parent, others) = chain
        .split_first()
        .with_context(|| format!("cannot commit {shown}: it has no parent"))?;
    let into = parent.path.display();
    let _parent = lock(&parent.path, false)?;
    let mut _others = Vec::new();
    for other in others {
        _others.push(lock(&other.path, true)?);
    }
    let below = Below::new()?;
    let child = Image::open(&args.file, format, true, Arc::new(Below::new()?))?;
    check_identity(&child, parent)?;
    // What the parent stands on was looked at with the chain: its folder may be below the child's.
    let allowed = match cli.parents {
        crate::cli::Policy::Folder => cantle_disk::Parents::InFolder(chain::folder_of(&args.file)?),
        other => other.parents(),
    };
    let target = open_format(&parent.path, parent.format, false, &allowed)?;
    let size = child.format().geometry();
    if target.geometry().sectors < size.sectors {
        target
            .grow(size.sectors)
            .with_context(|| format!("cannot commit {shown}: cannot make {into} larger"))?;
    }
    let copy = Copy {
        source: child.format(),
        own_files: Some(child.own_files(&below)),
        under: None,
        target: &*target,
        sparse: SPARSE,
        zeroes: Zeroes::Write {
            discard: parent.format == ImageFormat::Raw,
        },
    };
    let mut progress = Progress::new(size.bytes(), cli.quiet || cli.no_progress);
    let copied = copy.run(&interrupt, &mut progress);
    drop(progress);
    copied.with_context(|| format!("cannot commit {shown} to {into} (it can be tried again)"))?;
    note(
        cli,
        format_args!("{into} has it all now; {shown} is as it was, and is not needed any more"),
    );
    Ok(0)
}

/// Whether the parent is the one that the child was made over, where that can be told.
fn check_identity(child: &Image, parent: &chain::Link) -> Result<()> {
    let Image::Vhd(child) = child else {
        return Ok(());
    };
    let Some(expected) = child.info().parent.map(|parent| parent.uuid) else {
        return Ok(());
    };
    if parent.format != ImageFormat::Vhd {
        return Ok(());
    }
    let image = Image::open(&parent.path, parent.format, true, Arc::new(Below::new()?))?;
    if let Image::Vhd(image) = image {
        ensure!(
            image.info().uuid == expected,
            "cannot commit to {}: it is not the image that the child was made over",
            parent.path.display()
        );
    }
    Ok(())
}
