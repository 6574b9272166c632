//! The storage demo: a Debian guest works disks of each image format, and has writes to them cut short in three ways; what it had made durable
//! before has to be there, for its successor and for QEMU's tools.
//!
//! A guest boots five times, with what comes in a lab's file system:
//!
//! 1. It runs fio and works an ext4 file system, and switches itself off.
//! 2. It writes; its `cantle` is killed.
//! 3. It verifies, and writes again; it resets itself.
//! 4. The same, but the whole lab is ended: what was not on its disk is lost, as when power fails.
//! 5. In a new lab, it verifies.
//!
//! Then all images are checked and read here, by QEMU's tools, and verified once more.

mod checks;
mod format;
mod history;
pub(super) mod peer;
mod said;
mod stage;
mod volume;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde::Serialize;

use super::{DemoArgs, Host, say};
use crate::images::{self, Debian, Guest, Tools};
use crate::interrupt::Scratch;
use crate::{guests, machine, programs};
pub(crate) use format::Format;
use history::History;
use said::End;
use stage::{Boot, Stage};

/// Milliseconds that a guest writes before it is cut short.
const WRITES_FOR: std::ops::Range<u64> = 1000..6000;

/// What a format's image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// What fio writes and verifies.
    Fio,
    /// A file system.
    Ext4,
    /// Writes that are cut short.
    Durable,
}

impl Use {
    const ALL: [Self; 3] = [Self::Fio, Self::Ext4, Self::Durable];

    fn name(self) -> &'static str {
        match self {
            Self::Fio => "fio",
            Self::Ext4 => "ext4",
            Self::Durable => "durable",
        }
    }
}

/// The file of an image.
fn file(format: Format, of: Use) -> String {
    format!("{}.{}", of.name(), format.name())
}

/// The guest's names for its disks: xvda, xvdb and on.
fn disk_names() -> impl Iterator<Item = String> {
    ('a'..='z').map(|letter| format!("xvd{letter}"))
}

/// The last line of a demo that went well.
#[derive(Debug, Serialize)]
struct Line<'a> {
    demo: &'a str,
    host: &'a str,
    guest: &'a str,
    /// The formats, and the seconds that fio took on each.
    storage: BTreeMap<&'a str, f64>,
    /// Queues of each disk.
    queues: BTreeMap<&'a str, u64>,
    /// Batches that were durable before each of the cuts, all disks together.
    killed: u64,
    reset: u64,
    lost: u64,
    seconds: u64,
}

/// Runs one guest on one host; its line.
pub(super) fn on(host: Host, guest: Guest, args: &DemoArgs, formats: &[Format]) -> Result<String> {
    let debian = match host {
        Host::Debian12 => Debian::Debian12,
        Host::Debian13 => Debian::Debian13,
        Host::Native => {
            bail!("the storage demo ends its host: it needs a lab, --host debian12 or debian13")
        }
    };
    ensure!(!formats.is_empty(), "no format");
    let begun = Instant::now();
    machine::for_storage()?;
    if !args.no_build {
        guests::build()?;
        programs::build()?;
    }
    // Before the lab is up: it sees what is there when it begins.
    images::tools(guest, Tools::Storage)?;
    let scratch = Scratch::new("storage")?;
    let stage = Stage::new(scratch.path(), debian, guest, args, formats)?;
    let mut history = History::default();

    let mut lab = stage.lab()?;
    let work = stage.boot(&mut lab, &Boot::work(formats, args), &history)?;
    let durable: Vec<String> = disk_names().take(formats.len()).collect();
    let cut = |lab: &mut _, history: &mut History, end, step: &str| -> Result<u64> {
        let after = moment();
        let boot = Boot::durable(formats, args, end, step, after);
        let said = stage.boot(lab, &boot, history)?;
        let batches = history.add(&durable, said.durable())?;
        let (written, silence) = said.times();
        say(&format!(
            "{}: {batches} batches were durable when the end came ({end:?}), in {:.1} s, with {:.1} s between two of them at most",
            stage.name(),
            written.as_secs_f32(),
            silence.as_secs_f32()
        ));
        Ok(batches)
    };
    let killed = cut(&mut lab, &mut history, End::Killed, "write")?;
    let when_killed = history.text().to_owned();
    let reset = cut(&mut lab, &mut history, End::Reset, "verify,reset")?;
    let lost = cut(&mut lab, &mut history, End::Lost, "verify,write")?;
    // Ended at once, with all that it has in memory.
    drop(lab);
    let mut lab = stage.lab()?;
    let last = Boot::durable(formats, args, End::Off, "verify", Duration::ZERO);
    stage.boot(&mut lab, &last, &history)?;
    lab.off()?;

    checks::all(&stage, &work, &history, &when_killed)?;
    let by_format = |name: &str| -> Result<BTreeMap<&str, &str>> {
        formats
            .iter()
            .map(|format| {
                Ok((
                    format.name(),
                    work.value(&format!("{name}_{}", format.name()))?,
                ))
            })
            .collect()
    };
    let mut line = Line {
        demo: "ok",
        host: host.name(),
        guest: guest.name(),
        storage: BTreeMap::new(),
        queues: BTreeMap::new(),
        killed,
        reset,
        lost,
        seconds: begun.elapsed().as_secs(),
    };
    for (format, seconds) in by_format("fio_s")? {
        line.storage.insert(format, seconds.parse()?);
    }
    for (format, queues) in by_format("fio_queues")? {
        line.queues.insert(format, queues.parse()?);
    }
    Ok(serde_json::to_string(&line)?)
}

/// Some moment at which writes are cut short.
fn moment() -> Duration {
    let random = RandomState::new().hash_one("moment");
    Duration::from_millis(WRITES_FOR.start + random % (WRITES_FOR.end - WRITES_FOR.start))
}
