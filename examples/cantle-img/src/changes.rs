//! `changes`.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, Result, ensure};
use cantle_image::{Extent, Format, Geometry, Mapped};
use cantle_layers::ChangedBlocks;
use serde_json::json;

use crate::cli;
use crate::image::must_be_image;
use crate::output::Output;

/// More than any such file has: 64 bitmaps of a large disk.
const MAX_LEN: u64 = 4 << 30;
/// The most granules of a disk: at the usual 64 KiB, 256 TiB.
const MAX_GRANULES: u64 = 1 << 32;

pub(crate) fn changes(out: &mut Output, args: &cli::Changes) -> Result<u8> {
    let shown = args.file.display();
    let opened =
        open(&args.file).with_context(|| format!("cannot use {shown} as list of changes"))?;
    let Some(since) = args.since else {
        return checkpoints(out, &opened, args.json);
    };
    let changed = opened
        .changed_since(since)
        .with_context(|| format!("cannot tell what has changed, by {shown}"))?;
    if args.json {
        let extents: Vec<_> = changed
            .extents()
            .map(|range| json!({"start": range.start, "length": range.end - range.start}))
            .collect();
        let all = json!({"since": since.to_string(), "all": changed.all, "bytes": changed.bytes(), "extents": extents});
        writeln!(out, "{all:#}")?;
        return Ok(0);
    }
    writeln!(out, "{:<18} Length", "Offset")?;
    for range in changed.extents() {
        let len = range.end - range.start;
        writeln!(out, "{:<18} {len:#x}", format!("{:#x}", range.start))?;
    }
    Ok(0)
}

fn checkpoints(out: &mut Output, opened: &ChangedBlocks, as_json: bool) -> Result<u8> {
    let mut list = Vec::new();
    for generation in opened.generations() {
        let since = generation.since.duration_since(UNIX_EPOCH);
        let since = since.map_or(0, |since| since.as_secs());
        let changed = opened
            .changed_since(generation.id)
            .context("cannot read what has changed")?;
        let bytes = changed.bytes();
        if as_json {
            list.push(json!({"id": generation.id.to_string(), "since": since, "all": changed.all, "bytes": bytes}));
        } else {
            let all = if changed.all {
                " (all: what did is not known)"
            } else {
                ""
            };
            writeln!(out, "{}  {since}  {bytes} bytes{all}", generation.id)?;
        }
    }
    if as_json {
        writeln!(out, "{:#}", serde_json::Value::from(list))?;
    }
    Ok(0)
}

/// Opens a copy of the file in memory: a disk that is in use may write to it, and nobody else may.
fn open(path: &Path) -> Result<ChangedBlocks> {
    must_be_image(path)?;
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    ensure!(len <= MAX_LEN, "it is larger than any");
    let memory = rustix::fs::memfd_create("changes", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut memory = File::from(memory);
    io::copy(&mut (&mut file).take(len), &mut memory)?;
    let size = disk_size(&memory)?;
    let opened = ChangedBlocks::open(Arc::new(Sized(size)), Box::new(Arc::new(memory)))?;
    Ok(opened)
}

/// The disk's size as the file has it: by its two headers of 4096 bytes, of which the valid one with the higher sequence number counts.
fn disk_size(file: &File) -> Result<u64> {
    let mut best: Option<(u64, u64, u64)> = None;
    for at in [0, 4096] {
        let mut header = [0; 4096];
        if std::os::unix::fs::FileExt::read_exact_at(file, &mut header, at).is_ok()
            && let Some(found) = read_header(&header)
            && best.is_none_or(|best| found > best)
        {
            best = Some(found);
        }
    }
    let (_, granule, size) = best.context("it has no valid header")?;
    let fits = granule != 0 && size / granule <= MAX_GRANULES && size.is_multiple_of(512);
    ensure!(fits, "it is of a disk of {size} bytes");
    Ok(size)
}

/// Sequence number, granule and disk size of a valid header.
fn read_header(header: &[u8; 4096]) -> Option<(u64, u64, u64)> {
    let four = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let eight = |at: usize| Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
    let len = usize::try_from(four(12)?).ok()?;
    let fields = header.get(20..)?.get(..len)?;
    let mut sum = crc32fast::Hasher::new();
    sum.update(header.get(..16)?);
    sum.update(fields);
    let valid = header.starts_with(b"CANTLCBT") && four(8)? == 1 && sum.finalize() == four(16)?;
    valid.then_some((eight(20)?, eight(28)?, eight(36)?))
}

/// Stands for the disk, of which nothing but its size matters.
struct Sized(u64);

impl Format for Sized {
    fn geometry(&self) -> Geometry {
        Geometry {
            read_only: true,
            ..Geometry::new(self.0 / 512)
        }
    }
    fn files(&self) -> Vec<Arc<File>> {
        Vec::new()
    }
    fn map(&self, _offset: u64, len: u64) -> io::Result<Mapped> {
        let extent = Extent::Zero;
        Ok(Mapped { extent, len })
    }
    fn read(&self, _offset: u64, into: &mut [u8]) -> io::Result<()> {
        into.fill(0);
        Ok(())
    }
    fn write(&self, _offset: u64, _from: &[u8]) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }
    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
