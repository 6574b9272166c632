//! `snapshot`.

use std::io::Write as _;

use anyhow::{Result, ensure};
use cantle_disk::{CreateSpec, ImageFormat, create_for};

use crate::chain;
use crate::cli::{Cli, Snapshot};
use crate::create::parent_name;
use crate::image::{Opened, Use, choose};
use crate::interrupt::Interrupt;
use crate::note;
use crate::output::Output;
use crate::workshop::Workshop;

pub(crate) fn snapshot(cli: &Cli, out: &mut Output, args: &Snapshot) -> Result<u8> {
    let Some(new) = args.new.as_ref().filter(|_| !args.list) else {
        return list(cli, out, args);
    };
    let interrupt = Interrupt::watch()?;
    let opened = Opened::open(&args.file, args.format, cli.parents, Use::Read)?;
    let format = match opened.kind {
        ImageFormat::Raw => ImageFormat::by_name(new),
        kind => kind,
    };
    ensure!(
        matches!(format, ImageFormat::Vhd | ImageFormat::Qcow2),
        "cannot make {}: a {format} image cannot stand on another; vhd and qcow2 can",
        new.display()
    );
    let shop = Workshop::open(new, false)?;
    let name = parent_name(format, shop.place(), &args.file, opened.kind)?;
    let spec = CreateSpec {
        parent: Some((name, opened.kind)),
        ..CreateSpec::new(format, opened.format.geometry().bytes())
    };
    create_for(shop.file(), shop.place(), &spec)?;
    interrupt.check()?;
    shop.finish()?;
    note(
        cli,
        format_args!(
            "use {} from now on; nothing may write to {} any more",
            new.display(),
            args.file.display()
        ),
    );
    Ok(0)
}

/// The image and what it stands on, one a line.
fn list(cli: &Cli, out: &mut Output, args: &Snapshot) -> Result<u8> {
    let format = choose(&args.file, args.format)?;
    writeln!(out, "{format:<6} {}", args.file.display())?;
    for link in chain::parents(&args.file, format, cli.parents)? {
        writeln!(out, "{:<6} {}", link.format, link.path.display())?;
    }
    Ok(0)
}
