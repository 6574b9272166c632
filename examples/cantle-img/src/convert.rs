//! `convert`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use cantle_disk::{ImageFormat, create_for};
use cantle_image::Format;

use crate::cli::{Cli, Convert};
use crate::copy::{Copy, PIECE, Zeroes};
use crate::create::{open_parent, set_parent, spec};
use crate::image::{Below, Image, Opened, Use};
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::workshop::Workshop;

pub(crate) fn convert(cli: &Cli, args: &Convert) -> Result<u8> {
    let interrupt = Interrupt::watch()?;
    ensure!(
        args.sparse_size.0 <= PIECE as u64 && args.sparse_size.0.is_multiple_of(512),
        "cannot take --sparse-size {}: it is a multiple of 512 up to 256K",
        args.sparse_size
    );
    let source = Opened::open(&args.source, args.format, cli.parents, Use::Read)?;
    if args.no_create {
        into_existing(cli, args, &source, &interrupt)?;
    } else {
        into_new(cli, args, &source, &interrupt)?;
    }
    Ok(0)
}

fn into_new(cli: &Cli, args: &Convert, source: &Opened, interrupt: &Interrupt) -> Result<()> {
    let format = args
        .output_format
        .unwrap_or(ImageFormat::by_name(&args.target));
    let parent = open_parent(cli, &args.options)?;
    let size = source.format.geometry().bytes();
    let shop = Workshop::open(&args.target, args.options.overwrite)?;
    let mut spec = spec(format, size, &args.options.options)?;
    set_parent(&mut spec, &shop, &args.options, parent.as_ref())?;
    create_for(shop.file(), shop.place(), &spec)?;
    interrupt.check()?;
    let below: Arc<dyn Format> = match &parent {
        Some(parent) => Arc::clone(&parent.format),
        None => Arc::new(Below::new()?),
    };
    let target = Image::open(shop.file(), format, false, below)?;
    copy(
        cli,
        args,
        source,
        parent.as_ref(),
        target.format(),
        Zeroes::AreThere,
        interrupt,
    )?;
    // A format's last words.
    if let Image::Vmdk(vmdk) = &target {
        vmdk.close().context("cannot close the new image")?;
    }
    drop(target);
    sync(shop.file())?;
    interrupt.check()?;
    shop.finish()
}

fn into_existing(cli: &Cli, args: &Convert, source: &Opened, interrupt: &Interrupt) -> Result<()> {
    let target = Opened::open(&args.target, args.output_format, cli.parents, Use::Write)?;
    let (from, into) = (
        source.format.geometry().bytes(),
        target.format.geometry().bytes(),
    );
    ensure!(
        from <= into,
        "cannot write into {}: it has {into} bytes, and the source {from}",
        args.target.display()
    );
    let raw = target.kind == ImageFormat::Raw;
    let zeroes = Zeroes::Write { discard: raw };
    let copied = copy(cli, args, source, None, &*target.format, zeroes, interrupt);
    copied.with_context(|| format!("{} is half written", args.target.display()))
}

fn copy(
    cli: &Cli,
    args: &Convert,
    source: &Opened,
    under: Option<&Opened>,
    target: &dyn Format,
    zeroes: Zeroes,
    interrupt: &Interrupt,
) -> Result<()> {
    let copy = Copy {
        source: &*source.format,
        own_files: None,
        under: under.map(|parent| &*parent.format),
        target,
        sparse: usize::try_from(args.sparse_size.0)?,
        zeroes,
    };
    let size = source.format.geometry().bytes();
    let mut progress = Progress::new(size, cli.quiet || cli.no_progress);
    let copied = copy.run(interrupt, &mut progress);
    copied.with_context(|| {
        let (from, into) = (args.source.display(), args.target.display());
        format!("cannot convert {from} to {into}")
    })
}

/// Brings a new file's length and the like to the medium, too.
fn sync(path: &Path) -> Result<()> {
    let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
    synced.with_context(|| format!("cannot bring {} to the medium", path.display()))
}
