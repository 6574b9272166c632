//! `resize`.

use anyhow::{Context as _, Result, ensure};
use cantle_image::SECTOR_SIZE;

use crate::cli::{Cli, ResizeDisk};
use crate::image::{Opened, Use};
use crate::note;
use crate::size::{Resize, Size};

pub(crate) fn resize(cli: &Cli, args: &ResizeDisk) -> Result<u8> {
    let opened = Opened::open(&args.file, args.format, cli.parents, Use::Write)?;
    let shown = args.file.display();
    let now = opened.format.geometry().bytes();
    let wanted = match args.size {
        Resize::To(size) => Some(size),
        Resize::By(more) => now.checked_add(more),
    };
    let wanted = wanted.with_context(|| format!("cannot make {shown} so large"))?;
    ensure!(
        wanted.is_multiple_of(SECTOR_SIZE),
        "cannot make {shown} {wanted} bytes large: whole sectors of 512 are"
    );
    ensure!(
        wanted >= now,
        "cannot make {shown} smaller: it has {now} bytes"
    );
    let grown = opened.format.grow(wanted / SECTOR_SIZE);
    grown
        .and_then(|()| opened.format.flush())
        .with_context(|| format!("cannot make {shown} {wanted} bytes large"))?;
    note(cli, format_args!("{shown} has {} now", Size(wanted)));
    Ok(0)
}
