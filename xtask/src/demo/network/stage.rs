//! Where the guests run: a lab, and a new one where that is lost.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::part::Part;
use super::said::Said;
use super::trial::{Started, Trial};
use crate::demo::report::GuestLost;
use crate::demo::{DemoArgs, TRIES, lost, say, shown};
use crate::images::{Debian, Guest, Tools};
use crate::lab::{self, Lab, Setup};
use crate::{guests, programs, workspace};

/// MiB of a lab's memory: two guests, their initial file system several times, and what is captured.
const LAB_MEMORY: u32 = 2560;

/// MiB of a guest's.
const MEMORY: u32 = 448;

/// Whose interface it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum With {
    Cantle,
    Qemu,
}

impl With {
    /// The name for people and programs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cantle => "cantle",
            Self::Qemu => "qemu",
        }
    }
}

/// A host, and what makes guests on it.
#[derive(Debug)]
pub(super) struct Stage {
    host: Debian,
    guest: Guest,
    lab: Option<Lab>,
    log: PathBuf,
    timeout: Duration,
    lab_cpus: u32,
}

impl Stage {
    pub(super) fn new(host: Debian, guest: Guest, args: &DemoArgs) -> Result<Self> {
        let log = format!("network-{}-{}.log", host.name(), guest.name());
        let log = workspace::lab("logs")?.join(log);
        // A run that is under way elsewhere keeps its own file.
        let _ = fs::remove_file(&log);
        File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        Ok(Self {
            host,
            guest,
            lab: None,
            log,
            timeout: Duration::from_secs(args.timeout),
            // Some parts have a guest of two vCPUs, some two guests.
            lab_cpus: args.lab_cpus(2),
        })
    }

    /// Runs a part, again while the emulator loses it; what was said, where all came to its proper end.
    pub(super) fn tried(&mut self, trial: &Trial) -> Result<Said> {
        let name = self.name(trial, With::Cantle);
        let mut run = 1;
        loop {
            match self.once(trial, With::Cantle) {
                Err(error) if lost(&error) && run < TRIES => {
                    say(&format!("{name}: run {run} was lost, once more: {error:#}"));
                    run += 1;
                }
                outcome => return outcome.map_err(|error| shown(error, &name, &self.log)),
            }
        }
    }

    /// Runs a part once.
    pub(super) fn once(&mut self, trial: &Trial, with: With) -> Result<Said> {
        let name = self.name(trial, with);
        let mut log = OpenOptions::new().append(true).open(&self.log)?;
        writeln!(log, "\n--- {name}")?;
        let script = self.script(trial, with)?;
        let timeout = self.timeout;
        let lab = self.lab()?;
        let begun = Instant::now();
        let mut said = Said::default();
        let code = lab.run(&script, Some(begun + timeout), &mut |stream, bytes| {
            for line in said.push(stream, bytes) {
                writeln!(log, "{line}")?;
                say(&format!(
                    "{name} {:6.1} s  {line}",
                    begun.elapsed().as_secs_f32()
                ));
            }
            Ok(())
        })?;
        if code.is_none() && !said.has_failed() {
            bail!(GuestLost(format!("no end after {timeout:?}")));
        }
        match with {
            With::Cantle => said.judge(trial.server.is_some())?,
            With::Qemu => said.judge_peers()?,
        }
        Ok(said)
    }

    fn name(&self, trial: &Trial, with: With) -> String {
        let (guest, host) = (self.guest.name(), self.host.name());
        format!(
            "{guest} on {host}, {} by {}",
            trial.part.name(),
            with.name()
        )
    }

    /// The lab that is there, or a new one; one that is not free is ended before.
    fn lab(&mut self) -> Result<&mut Lab> {
        let lab = match self.lab.take().filter(Lab::is_free) {
            Some(lab) => lab,
            None => {
                say(&format!("host {}: getting ready", self.host.name()));
                let mut found = programs::built();
                found.extend(programs_for_guest());
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
    pub(super) fn leave(self) -> Result<()> {
        self.lab.map_or(Ok(()), Lab::off)
    }

    fn script(&self, trial: &Trial, with: With) -> Result<String> {
        let asset = workspace::asset("network-host.sh");
        let body = fs::read_to_string(&asset)
            .with_context(|| format!("cannot read {}", asset.display()))?;
        let images = format!("/guests/{}", self.guest.name());
        let tools = |tools: Tools| format!("{images}/{}.cpio", tools.name());
        let emulator = match with {
            With::Cantle => String::new(),
            With::Qemu => tools(Tools::Emulator),
        };
        let server = trial.server.as_ref();
        let server = |of: fn(&Started) -> &str| server.map_or("", of);
        let when = |so: bool, value: &'static str| if so { value } else { "" };
        Ok(lab::assigned(&[
            ("BUSYBOX", "busybox"),
            ("CANTLE", "cantle"),
            ("KERNEL", &format!("{images}/vmlinuz")),
            ("INITRD", &format!("{images}/initrd")),
            ("TOOLS", &tools(Tools::Network)),
            ("EMULATOR", &emulator),
            ("PROGRAMS", &lab::paths(&programs_for_guest())),
            ("WITH", with.name()),
            ("MEMORY", &MEMORY.to_string()),
            ("VCPUS", &trial.vcpus.to_string()),
            ("TAPS", &trial.taps),
            ("NET", &trial.client.net),
            ("CMDLINE", &trial.client.cmdline),
            ("SERVER_NET", server(|guest| &guest.net)),
            ("SERVER_CMDLINE", server(|guest| &guest.cmdline)),
            ("OPTIONS", &trial.options),
            ("ONE_PROCESS", when(trial.part.is_one_process(), "yes")),
            ("CAPTURE", when(trial.part == Part::Host, "yes")),
            ("PCAP", when(trial.part == Part::Rate, "/tmp/network.pcap")),
            ("REPLUG", when(trial.part == Part::Plug, "yes")),
        ]) + &body)
    }
}

/// What goes into the guest's initial file system besides Debian's tools; the host runs some of it as well.
fn programs_for_guest() -> [PathBuf; 2] {
    [
        guests::program("traffic"),
        workspace::asset("guest-network.sh"),
    ]
}
