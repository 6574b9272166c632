//! `compare`.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use cantle_image::{Extent, Format};

use crate::cli::{Cli, Compare};
use crate::copy::read_or_zeroes;
use crate::extents::{Extents, Part, What};
use crate::image::{Opened, Use};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::progress::Progress;

/// So much is read at a time.
const PIECE: usize = 256 << 10;
/// Exit code where the disks differ.
const DIFFERENT: u8 = 1;

pub(crate) fn compare(cli: &Cli, out: &mut Output, args: &Compare) -> Result<u8> {
    let interrupt = Interrupt::watch()?;
    let how = match args.force_share {
        true => Use::ReadShared,
        false => Use::Read,
    };
    let first = Opened::open(&args.first, args.format, cli.parents, how)?;
    let second = Opened::open(&args.second, args.second_format, cli.parents, how)?;
    let sizes = [&first, &second].map(|disk| disk.format.geometry().bytes());
    let [one, other] = sizes;
    if one != other {
        writeln!(out, "Sizes differ: {one} and {other} bytes")?;
        if args.strict {
            return Ok(DIFFERENT);
        }
    }
    let mut progress = Progress::new(one.max(other), cli.quiet || cli.no_progress);
    let found = first_difference(&*first.format, &*second.format, &interrupt, &mut progress)?;
    drop(progress);
    match found {
        None => {
            writeln!(out, "Images are identical.")?;
            Ok(0)
        }
        Some(at) => {
            writeln!(out, "Content mismatch at offset {at}!")?;
            Ok(DIFFERENT)
        }
    }
}

/// Parts of a disk, one after the other, and zeroes behind its end.
struct Walk<'a> {
    extents: Extents<'a>,
    part: Part,
}

impl<'a> Walk<'a> {
    fn new(disk: &'a dyn Format) -> Self {
        Self {
            extents: Extents::new(disk),
            part: Part {
                range: 0..0,
                what: What::Zero(None),
            },
        }
    }

    /// Whether it is zeroes from `at` on, and up to where that is known.
    fn at(&mut self, at: u64) -> Result<(bool, u64)> {
        while self.part.range.end <= at {
            match self
                .extents
                .next()
                .context("cannot read an image's tables")?
            {
                Some(part) => self.part = part,
                None => return Ok((true, u64::MAX)),
            }
        }
        let zero = matches!(self.part.what, What::Zero(_));
        Ok((zero, self.part.range.end))
    }
}

fn first_difference(
    first: &dyn Format,
    second: &dyn Format,
    interrupt: &Interrupt,
    progress: &mut Progress,
) -> Result<Option<u64>> {
    let end = first.geometry().bytes().max(second.geometry().bytes());
    let (mut one, mut other) = (Walk::new(first), Walk::new(second));
    let mut buffers = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    while at < end {
        interrupt.check()?;
        let (zero_one, to_one) = one.at(at)?;
        let (zero_other, to_other) = other.at(at)?;
        let mut to = to_one.min(to_other).min(end);
        if !(zero_one && zero_other || same_place(first, second, at, to)) {
            to = to.min(at + PIECE as u64);
            let len = usize::try_from(to - at)?;
            let reading = || format!("cannot read at byte {at}");
            let (one, other) = (head(&mut buffers.0, len), head(&mut buffers.1, len));
            read_or_zeroes(first, at, one).with_context(reading)?;
            read_or_zeroes(second, at, other).with_context(reading)?;
            if one != other {
                let mut pairs = one.iter().zip(other.iter());
                let differ = pairs.position(|(one, other)| one != other);
                return Ok(Some(at + differ.unwrap_or(0) as u64));
            }
        }
        at = to;
        progress.at(at);
    }
    Ok(None)
}

fn head(buffer: &mut [u8], len: usize) -> &mut [u8] {
    let len = len.min(buffer.len());
    buffer.split_at_mut(len).0
}

/// Whether both have the same bytes of one file there, as two images over one parent have.
fn same_place(first: &dyn Format, second: &dyn Format, at: u64, to: u64) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let place = |disk: &dyn Format| {
        let size = disk.geometry().bytes();
        if to > size {
            return None;
        }
        let mapped = disk.map(at, to - at).ok()?;
        let Extent::Data { file, offset, .. } = mapped.extent else {
            return None;
        };
        let files = disk.files();
        let metadata = files.get(usize::from(file))?.metadata().ok()?;
        let whole = mapped.len >= to - at && metadata.is_file();
        whole.then(|| (metadata.dev(), metadata.ino(), offset))
    };
    place(first).is_some_and(|one| place(second) == Some(one))
}
