//! A guest without devices that runs programs of ours: as often as is wanted, in a lab, and in a new one where that is lost.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::demo::kind::Kind;
use crate::demo::report::{GuestLost, Report};
use crate::demo::{PAIR_TRIES, lost, say, shown};
use crate::images::{Debian, Guest};
use crate::lab::{self, Lab, Setup};
use crate::{programs, workspace};

/// MiB of a lab's memory, and of a guest's.
const LAB_MEMORY: u32 = 2048;
const MEMORY: u32 = 512;

/// One boot.
#[derive(Clone, Debug)]
pub(crate) struct Boot {
    /// The guest's kind.
    pub(crate) kind: Kind,
    /// Its vCPUs.
    pub(crate) vcpus: u32,
    /// More for its command line.
    pub(crate) cmdline: String,
}

/// What a boot came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Seconds from the start of `cantle` to the guest's init.
    pub(crate) boot_s: f64,
    /// What the program said, NAME=VALUE, the names without its own.
    pub(crate) said: BTreeMap<String, String>,
}

/// A host, and the guest that works on it.
#[derive(Debug)]
pub(crate) struct Stage {
    host: Debian,
    guest: Guest,
    program: PathBuf,
    lab_cpus: u32,
    lab: Option<Lab>,
    log: PathBuf,
    timeout: Duration,
}

impl Stage {
    /// For guests that run this program, one of [`crate::guests`].
    pub(crate) fn new(
        host: Debian,
        guest: Guest,
        program: PathBuf,
        lab_cpus: u32,
        timeout: Duration,
    ) -> Result<Self> {
        let word = program.file_name().unwrap_or_default().to_string_lossy();
        let log = format!("{word}-{}-{}.log", host.name(), guest.name());
        let log = workspace::lab("logs")?.join(log);
        // A run that is under way elsewhere keeps its own file.
        let _ = fs::remove_file(&log);
        File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        Ok(Self {
            host,
            guest,
            program,
            lab_cpus,
            lab: None,
            log,
            timeout,
        })
    }

    /// Boots the guest, again while the emulator loses it.
    pub(crate) fn tried(&mut self, boot: &Boot) -> Result<Outcome> {
        let name = self.name(boot);
        let mut run = 1;
        loop {
            match self.once(boot) {
                Err(error) if lost(&error) && run < PAIR_TRIES => {
                    say(&format!("{name}: run {run} was lost, once more: {error:#}"));
                    run += 1;
                }
                outcome => return outcome.map_err(|error| shown(error, &name, &self.log)),
            }
        }
    }

    /// Boots it once.
    pub(crate) fn once(&mut self, boot: &Boot) -> Result<Outcome> {
        let name = self.name(boot);
        let mut log = OpenOptions::new().append(true).open(&self.log)?;
        writeln!(log, "\n--- {name}")?;
        let script = self.script(boot)?;
        let timeout = self.timeout;
        let before = format!("{}_", self.word());
        let lab = self.lab()?;
        let begun = Instant::now();
        let mut report = Report::new();
        let code = lab.run(&script, Some(begun + timeout), &mut |_, bytes| {
            log.write_all(bytes)?;
            for line in report.push(bytes) {
                say(&format!(
                    "{name} {:6.1} s  {line}",
                    begun.elapsed().as_secs_f32()
                ));
            }
            Ok(())
        })?;
        match code {
            Some(code) => report.ended(code)?,
            None => bail!(GuestLost(format!("no end after {timeout:?}"))),
        }
        report.is_of(boot.kind)?;
        Ok(Outcome {
            boot_s: report.boot_s()?,
            said: report.said(&before),
        })
    }

    fn word(&self) -> String {
        let name = self.program.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    fn name(&self, boot: &Boot) -> String {
        let (guest, host) = (self.guest.name(), self.host.name());
        format!("{guest} as {} on {host}", boot.kind.name())
    }

    /// The lab that is there, or a new one; one that is not free is ended before.
    fn lab(&mut self) -> Result<&mut Lab> {
        let lab = match self.lab.take().filter(Lab::is_free) {
            Some(lab) => lab,
            None => {
                say(&format!("host {}: getting ready", self.host.name()));
                let mut found = programs::built();
                found.push(self.program.clone());
                Lab::boot(&Setup {
                    host: self.host,
                    memory: LAB_MEMORY,
                    cpus: self.lab_cpus,
                    disks: &[],
                    programs: &found,
                })?
            }
        };
        Ok(self.lab.insert(lab))
    }

    /// Switches the host off.
    pub(crate) fn leave(self) -> Result<()> {
        self.lab.map_or(Ok(()), Lab::off)
    }

    fn script(&self, boot: &Boot) -> Result<String> {
        let asset = workspace::asset("work-host.sh");
        let body = fs::read_to_string(&asset)
            .with_context(|| format!("cannot read {}", asset.display()))?;
        let images = format!("/guests/{}", self.guest.name());
        let options = match boot.kind {
            Kind::Pvh => String::new(),
            kind => format!("--type {}", kind.name()),
        };
        Ok(lab::assigned(&[
            ("BUSYBOX", "busybox"),
            ("CANTLE", "cantle"),
            ("KERNEL", &format!("{images}/vmlinuz")),
            ("INITRD", &format!("{images}/initrd")),
            ("PROGRAMS", &lab::paths(std::slice::from_ref(&self.program))),
            ("VCPUS", &boot.vcpus.to_string()),
            ("MEMORY", &MEMORY.to_string()),
            ("CMDLINE", &format!("work={} {}", self.word(), boot.cmdline)),
            ("OPTIONS", &options),
        ]) + &body)
    }
}
