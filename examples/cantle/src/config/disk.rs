//! Disks in words: the option's language, and `xl-disk-configuration`'s.

use std::path::PathBuf;
use std::time::Duration;

use cantle_vmm_core::DiskConfig;
use cantle_vmm_core::disk::{
    BackendOptions, DiskKind, DiskSpec, ImageFormat, OnError, Overlay, Parents, set_limit,
};

use super::spec::{path, set};

/// What the option takes, for its help.
pub(crate) const HELP: &str = "\
Disks (--disk path=FILE,…):
  format=raw|vhd|qcow2|vmdk  the image's format, raw unless given; never guessed
  ro, rw, cdrom, removable   how the guest sees it
  vdev=xvda                  its name in the guest; by position unless given
  cache=MODE                 writeback (the default), none, writethrough or unsafe
  queues=N                   queues that the guest may use, 1 (the default) to 16
  on-error=report|stop|enospc  what happens when the host fails: the guest is told, or the disk waits
  parents=refuse|folder|any  which files an image may name as its parents
  overlay=FILE[,keep]        a private qcow2 for what is written; removed at the end unless kept
  read-cache=FOLDER          keeps what is read of a shared image on a local disk
  track=FILE                 notes what changes, for backups
  sector-size=512|4096, no-discard, secure-discard, no-persistent, no-lock, spin=MICROSECONDS
  read-bps=, write-bps=, read-iops=, write-iops=, each also with -burst: limits per second";

/// A disk that is being read.
#[derive(Default)]
struct Words {
    target: Option<PathBuf>,
    format: Option<ImageFormat>,
    vdev: Option<String>,
    read_only: Option<bool>,
    kind: Option<DiskKind>,
    overlay: Option<PathBuf>,
    keep: bool,
    positions: usize,
    rest: Option<Box<(DiskSpec, BackendOptions)>>,
}

/// A disk as `--disk` has it; `on_error` unless it says something else itself.
pub(crate) fn option(text: &str) -> Result<DiskConfig, String> {
    let mut words = Words::default();
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("path", value)) => set(&mut words.target, "path", path(value)?)?,
            Some((key, value)) => words.key(key, value)?,
            None => words.word(part)?,
        }
    }
    words.finish("path=FILE")
}

/// A disk as `xl-disk-configuration` has it: the positions target, format, vdev, access, or keys, or both; and the old
/// `phy:TARGET,VDEV,ACCESS` and `file:TARGET,VDEV,ACCESS`. Our own keys go beside xl's.
pub(super) fn xl(text: &str) -> Result<DiskConfig, String> {
    let mut words = Words::default();
    let mut rest = text;
    for prefix in ["phy:", "file:", "raw:"] {
        if let Some(target) = rest.strip_prefix(prefix) {
            // It says the format, so that its position is not there.
            words.format = Some(ImageFormat::Raw);
            rest = target;
        }
    }
    loop {
        // A target that is named takes the whole rest, commas and all.
        if let Some(target) = rest.trim_start().strip_prefix("target=") {
            set(&mut words.target, "target", path(target)?)?;
            break;
        }
        let (part, more) = rest
            .split_once(',')
            .map_or((rest, None), |(part, more)| (part, Some(more)));
        match part.trim().split_once('=') {
            Some(("access", value)) => set(&mut words.read_only, "access", access(value)?)?,
            Some(("devtype", value)) => words.devtype(value)?,
            // How xl would serve it is not ours to say otherwise.
            Some(("backendtype", "phy" | "tap" | "qdisk")) => {}
            Some((key, value)) => words.key(key, value)?,
            None => match part.trim() {
                word @ ("cdrom" | "discard" | "no-discard" | "direct-io-safe") => {
                    words.word(word)?;
                }
                position => words.position(position)?,
            },
        }
        match more {
            Some(more) => rest = more,
            None => break,
        }
    }
    if words.vdev.is_none() {
        return Err("the vdev is missing: the guest's name for the disk, as xvda".to_owned());
    }
    words.finish("target")
}

impl Words {
    fn rest(&mut self) -> &mut (DiskSpec, BackendOptions) {
        self.rest.get_or_insert_with(|| {
            let spec = DiskSpec::new("", ImageFormat::Raw);
            Box::new((spec, BackendOptions::default()))
        })
    }

    /// A part with a value.
    fn key(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "format" => set(&mut self.format, "format", format(value)?)?,
            "vdev" => set(&mut self.vdev, "vdev", device_name(value)?)?,
            "overlay" => set(&mut self.overlay, "overlay", path(value)?)?,
            "cache" => self.rest().0.cache = words(value)?,
            "queues" => {
                self.rest().1.max_queues = within(value, 1..=BackendOptions::MAX_QUEUES)?;
            }
            "on-error" => self.rest().1.on_error = on_error(value)?,
            "parents" => {
                self.rest().0.parents = match value {
                    "refuse" => Parents::Refuse,
                    "folder" => Parents::SameFolder,
                    "any" => Parents::Any,
                    _ => return Err(format!("parents={value}: refuse, folder or any")),
                }
            }
            "read-cache" => self.rest().0.read_cache = Some(path(value)?),
            "track" => self.rest().0.track_changes = Some(path(value)?),
            "sector-size" => {
                self.rest().0.sector_size = match value {
                    "512" => Some(512),
                    "4096" => Some(4096),
                    _ => return Err(format!("sector-size={value}: 512 or 4096")),
                }
            }
            "spin" => {
                let time = within(value, 0..=10_000_u32)?;
                self.rest().1.spin = Duration::from_micros(time.into());
            }
            _ => {
                let limits = self.rest().0.limits.get_or_insert_default();
                match set_limit(limits, key, value) {
                    Some(Ok(())) => {}
                    Some(Err(())) => {
                        return Err(format!("{key}={value}: a number, or with K, M or G"));
                    }
                    None => return Err(format!("unknown part {key:?} of a disk")),
                }
            }
        }
        Ok(())
    }

    /// A part without a value.
    fn word(&mut self, word: &str) -> Result<(), String> {
        match word {
            "ro" | "rw" => set(&mut self.read_only, "the access", word == "ro")?,
            "cdrom" => set(&mut self.kind, "the kind", DiskKind::Cdrom)?,
            "removable" => set(&mut self.kind, "the kind", DiskKind::Removable)?,
            "keep" => self.keep = true,
            "discard" => self.rest().1.discard = true,
            "no-discard" => self.rest().1.discard = false,
            "secure-discard" => self.rest().0.secure_discard = true,
            "no-persistent" => self.rest().1.persistent = false,
            "no-lock" => self.rest().0.lock = false,
            // The memory that a guest lends stays mapped until the disk is done with it, so that it always is.
            "direct-io-safe" => {}
            _ => {
                return Err(format!(
                    "unknown part {word:?} of a disk: path=FILE, format=, ro, vdev=NAME and others; --help lists them"
                ));
            }
        }
        Ok(())
    }

    fn devtype(&mut self, value: &str) -> Result<(), String> {
        match value {
            "cdrom" => set(&mut self.kind, "devtype", DiskKind::Cdrom),
            "disk" => set(&mut self.kind, "devtype", DiskKind::Disk),
            _ => Err(format!("devtype {value:?} is not supported: disk or cdrom")),
        }
    }

    /// The next of the parts that have no name; an empty one leaves its default.
    fn position(&mut self, part: &str) -> Result<(), String> {
        loop {
            self.positions += 1;
            return match self.positions {
                1 if self.target.is_none() => set(&mut self.target, "target", path(part)?),
                2 if self.format.is_none() => set(&mut self.format, "format", format(part)?),
                3 if self.vdev.is_none() => set(&mut self.vdev, "vdev", device_name(part)?),
                4 if self.read_only.is_none() => set(&mut self.read_only, "access", access(part)?),
                // Named, or said by the prefix: the part is for the next position.
                1..=4 => continue,
                _ => Err(format!("{part:?} is too much")),
            };
        }
    }

    fn finish(mut self, target: &str) -> Result<DiskConfig, String> {
        let (mut disk, mut options) = self.rest().clone();
        disk.path = self.target.ok_or_else(|| format!("{target} is missing"))?;
        disk.format = self.format.unwrap_or_default();
        disk.read_only = self.read_only.unwrap_or(false);
        options.kind = self.kind.unwrap_or_default();
        disk.overlay = match self.overlay {
            Some(path) => Some(Overlay {
                path,
                keep: self.keep,
            }),
            None if self.keep => return Err("keep goes with overlay=FILE".to_owned()),
            None => None,
        };
        Ok(DiskConfig {
            disk,
            options,
            vdev: self.vdev,
        })
    }
}

/// A word that has a meaning, with what is wrong with it otherwise.
fn words<T: std::str::FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn within<T>(text: &str, limits: std::ops::RangeInclusive<T>) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let number = text.parse().ok().filter(|number| limits.contains(number));
    number.ok_or_else(|| {
        format!(
            "{text:?} is not one of {} to {}",
            limits.start(),
            limits.end()
        )
    })
}

/// What happens when the host fails.
pub(crate) fn on_error(text: &str) -> Result<OnError, String> {
    match text {
        "report" => Ok(OnError::Report),
        "stop" => Ok(OnError::Stop),
        "enospc" => Ok(OnError::StopWhenFull),
        _ => Err(format!("{text:?}: report, stop or enospc")),
    }
}

fn format(text: &str) -> Result<ImageFormat, String> {
    match text {
        "" => Ok(ImageFormat::Raw),
        _ => words(text),
    }
}

fn access(text: &str) -> Result<bool, String> {
    match text {
        "r" | "ro" => Ok(true),
        "" | "w" | "rw" => Ok(false),
        _ => Err(format!("unknown access {text:?}: ro or rw")),
    }
}

/// `xvda` to `xvdz`.
fn device_name(text: &str) -> Result<String, String> {
    match text.strip_prefix("xvd").map(str::as_bytes) {
        Some([b'a'..=b'z']) => Ok(text.to_owned()),
        _ => Err(format!("vdev {text:?} is not supported, only xvda to xvdz")),
    }
}

#[cfg(test)]
mod tests;
