//! `map`.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::cli::{Cli, Map};
use crate::extents::{Extents, Part, Place, What};
use crate::image::{Opened, Use};
use crate::output::Output;

pub(crate) fn map(cli: &Cli, out: &mut Output, args: &Map) -> Result<u8> {
    let how = match args.force_share {
        true => Use::ReadShared,
        false => Use::Read,
    };
    let opened = Opened::open(&args.file, args.format, cli.parents, how)?;
    let mut extents = Extents::new(&*opened.format);
    let names: Vec<_> = extents.files().iter().map(name_of).collect();
    if args.json {
        write!(out, "[")?;
    } else {
        writeln!(
            out,
            "{:<18} {:<18} {:<18} File",
            "Offset", "Length", "Mapped to"
        )?;
    }
    let mut first = true;
    let mut last: Option<Part> = None;
    loop {
        let next = extents.next().context("cannot read the image's tables")?;
        let Some(part) = next else { break };
        if last.as_mut().is_some_and(|last| joined(last, &part)) {
            continue;
        }
        if let Some(done) = last.replace(part) {
            print(out, &done, &names, args.json, &mut first)?;
        }
    }
    if let Some(done) = last {
        print(out, &done, &names, args.json, &mut first)?;
    }
    if args.json {
        writeln!(out, "]")?;
    }
    Ok(0)
}

/// Makes one of two parts where the second goes on as the first does.
fn joined(last: &mut Part, next: &Part) -> bool {
    let len = last.range.end - last.range.start;
    let goes_on = |one: Place, other: Place| {
        one.file == other.file && one.offset.checked_add(len) == Some(other.offset)
    };
    let same = match (last.what, next.what) {
        (What::Zero(None), What::Zero(None)) | (What::Other, What::Other) => true,
        (What::Zero(Some(one)), What::Zero(Some(other))) | (What::Data(one), What::Data(other)) => {
            goes_on(one, other)
        }
        _ => false,
    };
    if same {
        last.range.end = next.range.end;
    }
    same
}

fn print(
    out: &mut Output,
    part: &Part,
    names: &[Option<PathBuf>],
    as_json: bool,
    first: &mut bool,
) -> Result<()> {
    let len = part.range.end - part.range.start;
    let place = match part.what {
        What::Zero(place) => place,
        What::Data(place) => Some(place),
        What::Other => None,
    };
    let file = place.and_then(|place| names.get(place.file)?.as_ref());
    if as_json {
        let mut object = json!({
            "start": part.range.start,
            "length": len,
            "zero": matches!(part.what, What::Zero(_)),
            "data": !matches!(part.what, What::Zero(_)),
        });
        if let Some(place) = place {
            object["offset"] = place.offset.into();
            object["file"] = file.map(|file| file.to_string_lossy().into_owned()).into();
        }
        let comma = if *first { "" } else { ",\n" };
        write!(out, "{comma}{object}")?;
        *first = false;
    } else if !matches!(part.what, What::Zero(_)) {
        let mapped = place.map_or("compressed".to_owned(), |place| hex(place.offset));
        let file = file.map(|file| file.display().to_string());
        let (start, len) = (hex(part.range.start), hex(len));
        let line = format!(
            "{start:<18} {len:<18} {mapped:<18} {}",
            file.unwrap_or_default()
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn hex(number: u64) -> String {
    format!("{number:#x}")
}

/// The name of an open file.
fn name_of(file: &Arc<File>) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}
