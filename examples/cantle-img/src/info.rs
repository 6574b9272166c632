//! `info`.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use cantle_disk::{ImageFormat, probe};
use serde_json::{Map, Value, json};

use crate::chain::{self, Named};
use crate::cli::{Cli, Info};
use crate::extents::{Extents, What};
use crate::image::{Below, Image, lock, must_be_image};
use crate::output::Output;
use crate::size::Size;

pub(crate) fn info(cli: &Cli, out: &mut Output, args: &Info) -> Result<u8> {
    must_be_image(&args.file)?;
    let format = match args.format {
        Some(format) => format,
        None => {
            probe(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?
        }
    };
    let mut all = vec![describe(args, &args.file, format)?];
    if args.chain {
        for link in chain::parents(&args.file, format, cli.parents)? {
            all.push(describe(args, &link.path, link.format)?);
        }
    }
    if args.json {
        let value = match args.chain {
            true => all.iter().map(Described::json).collect(),
            false => all.first().map(Described::json).unwrap_or_default(),
        };
        writeln!(out, "{value:#}")?;
        return Ok(0);
    }
    for (n, described) in all.iter().enumerate() {
        if n != 0 {
            writeln!(out)?;
        }
        described.print(out, n == 0 && args.format.is_none())?;
    }
    Ok(0)
}

/// What is known of an image.
struct Described {
    file: String,
    format: ImageFormat,
    size: u64,
    on_disk: u64,
    unit: Option<u64>,
    /// Bytes of the disk that are in this image, not in a parent or nowhere.
    own: u64,
    /// Where the format can say.
    dirty: Option<bool>,
    parent: Option<Named>,
    specific: Map<String, Value>,
}

fn describe(args: &Info, path: &Path, format: ImageFormat) -> Result<Described> {
    must_be_image(path)?;
    let _lock = match args.force_share {
        true => None,
        false => Some(lock(path, true)?),
    };
    let below = Below::new()?;
    let image = Image::open(path, format, true, Arc::new(Below::new()?))?;
    let disk = image.format();
    let own_files = image.own_files(&below);
    let files = disk.files();
    let own = files.iter().take(own_files);
    // The descriptor of a VMDK may be a file by itself, of little weight.
    let on_disk = own.filter_map(|file| file.metadata().ok());
    let mut described = Described {
        file: path.to_string_lossy().into_owned(),
        format,
        size: disk.geometry().bytes(),
        on_disk: on_disk.map(|metadata| metadata.blocks() * 512).sum(),
        unit: None,
        own: own_bytes(&image, own_files)
            .with_context(|| format!("cannot read the tables of {}", path.display()))?,
        dirty: None,
        parent: chain::named(&image),
        specific: Map::new(),
    };
    add_specific(&mut described, &image, path);
    Ok(described)
}

/// How many bytes of the disk are in the image's own files, without holes.
fn own_bytes(image: &Image, own_files: usize) -> std::io::Result<u64> {
    let mut extents = Extents::new(image.format());
    let mut own = 0;
    while let Some(part) = extents.next()? {
        own += match part.what {
            What::Data(place) if place.file < own_files => part.range.end - part.range.start,
            What::Other => part.range.end - part.range.start,
            _ => 0,
        };
    }
    Ok(own)
}

fn add_specific(described: &mut Described, image: &Image, path: &Path) {
    let mut set = |key: &str, value: Value| {
        described.specific.insert(key.to_owned(), value);
    };
    match image {
        Image::Raw(_) => {}
        Image::Vhd(image) => {
            let info = image.info();
            described.unit = info.block_size.map(u64::from);
            set("kind", info.kind.to_string().into());
            let creator = String::from_utf8_lossy(&info.creator).into_owned();
            set("creator", creator.trim_end_matches('\0').into());
            let version = (info.creator_version >> 16, info.creator_version & 0xffff);
            set(
                "creator-version",
                format!("{}.{}", version.0, version.1).into(),
            );
            set("uuid", uuid(&info.uuid).into());
            // Seconds from 1970 to 2000.
            set("created", (u64::from(info.timestamp) + 946_684_800).into());
            set("hidden", info.hidden.into());
            set("batmap", has_batmap(path).unwrap_or(false).into());
            if let Some(parent) = &info.parent {
                set("parent-uuid", uuid(&parent.uuid).into());
                let names = parent.names.iter().map(|name| name.to_string_lossy());
                set("parent-names", names.collect());
            }
        }
        Image::Qcow2(image) => {
            let header = image.header();
            described.unit = Some(1 << header.cluster_bits);
            described.dirty = Some(header.dirty || header.corrupt);
            set("version", header.version.into());
            let compression = match header.compression {
                cantle_qcow2::Compression::Deflate => "zlib",
                cantle_qcow2::Compression::Zstd => "zstd",
            };
            set("compression-type", compression.into());
            set("refcount-bits", (1_u64 << header.refcount_order).into());
            set("dirty", header.dirty.into());
            set("corrupt", header.corrupt.into());
            set("snapshots", header.snapshots.into());
        }
        Image::Vmdk(image) => {
            let descriptor = image.descriptor();
            described.unit = image.grain();
            described.dirty = is_unclean(path);
            set("create-type", descriptor.create_type.clone().into());
            set("cid", format!("{:08x}", image.cid()).into());
            set(
                "parent-cid",
                format!("{:08x}", descriptor.parent_cid).into(),
            );
            set("extents", descriptor.extents.len().into());
        }
    }
}

impl Described {
    fn print(&self, out: &mut Output, probed: bool) -> Result<()> {
        let line = |out: &mut Output, key: &str, value: &dyn std::fmt::Display| {
            writeln!(out, "{:<16} {value}", format!("{key}:"))
        };
        line(out, "image", &self.file)?;
        let by = match probed {
            true => " (it looks like it; no guest's disk is opened for that reason)",
            false => "",
        };
        line(out, "format", &format!("{}{by}", self.format))?;
        line(out, "virtual size", &bytes(self.size))?;
        line(out, "size on disk", &bytes(self.on_disk))?;
        if let Some(unit) = self.unit {
            line(out, "unit", &Size(unit))?;
        }
        let share = u128::from(self.own) * 1000 / u128::from(self.size.max(1));
        let share = format!("{} ({}.{} %)", Size(self.own), share / 10, share % 10);
        line(out, "allocated", &share)?;
        if let Some(dirty) = self.dirty {
            let state = if dirty {
                "dirty: to be checked"
            } else {
                "clean"
            };
            line(out, "state", &state)?;
        }
        if let Some(parent) = &self.parent {
            let name = parent.names.first().map(|name| name.display().to_string());
            let format = parent.format_name.as_deref().unwrap_or("no stated format");
            let name = name.unwrap_or_else(|| "without a name".to_owned());
            line(out, "parent", &format!("{name} ({format})"))?;
        }
        for (key, value) in &self.specific {
            let value = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            line(out, &key.replace('-', " "), &value)?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let mut value = json!({
            "filename": self.file,
            "format": self.format.name(),
            "virtual-size": self.size,
            "actual-size": self.on_disk,
            "allocated": self.own,
            "format-specific": { "type": self.format.name(), "data": self.specific },
        });
        if let Some(unit) = self.unit {
            value["cluster-size"] = unit.into();
        }
        if let Some(dirty) = self.dirty {
            value["dirty-flag"] = dirty.into();
        }
        if let Some(parent) = &self.parent {
            let name = parent.names.first().map(|name| name.to_string_lossy());
            value["backing-filename"] = name.map(|name| name.into_owned()).into();
            value["backing-filename-format"] = parent.format_name.clone().into();
        }
        value
    }
}

/// For people, and exactly.
fn bytes(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", Size(bytes))
}

fn uuid(bytes: &[u8; 16]) -> String {
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Whether a dynamic VHD has Xen's map of full blocks behind its table: at 16 the footer says where the header is, which says at 16 where
/// the table is, and at 28 how many entries of 4 bytes that has.
fn has_batmap(path: &Path) -> Option<bool> {
    let file = File::open(path).ok()?;
    let at = |offset: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    };
    if at(0)? != *b"conectix" {
        return Some(false);
    }
    let header = u64::from_be_bytes(at(16)?);
    let table = u64::from_be_bytes(at(header.checked_add(16)?)?);
    let entries = u64::from_be_bytes(at(header.checked_add(28)?)?) >> 32;
    let end = table
        .checked_add(entries * 4)?
        .checked_next_multiple_of(512)?;
    Some(at(end)? == *b"tdbatmap")
}

/// Byte 72 of a sparse VMDK's header says that it was not closed.
fn is_unclean(path: &Path) -> Option<bool> {
    let mut header = [0; 73];
    File::open(path).ok()?.read_exact_at(&mut header, 0).ok()?;
    let [byte] = header.get(72..)?.try_into().ok()?;
    header.starts_with(b"KDMV").then_some(byte != 0_u8)
}
