//! Where the boots take place: images, labs, and what goes into a guest.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::format::Format;
use super::history::History;
use super::said::{End, Said};
use super::volume::Volume;
use super::{Use, disk_names, file};
use crate::demo::report::GuestLost;
use crate::demo::{DemoArgs, say, shown};
use crate::images::{Debian, Guest, Tools};
use crate::lab::{self, Lab, Setup};
use crate::{guests, programs, workspace};

/// Bytes of a disk; `storage.fio` counts on it.
pub(super) const DISK: u64 = 64 << 20;

/// Where the host has the images.
pub(super) const IMAGES: &str = "/mnt/images";

/// MiB of a lab's memory: a guest of 640, its large initial file system three times, and room for a page cache.
pub(super) const LAB_MEMORY: u32 = 3072;

/// The guest's vCPUs where it is to use all its disks' queues, of which Linux has one for each vCPU at most; and otherwise.
const VCPUS: [u32; 2] = [4, 2];

/// How long the writers may be held up before the guest counts as one that hangs.
const STANDSTILL: Duration = Duration::from_secs(30);

/// The images, and what makes guests of them.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) folder: PathBuf,
    pub(super) host: Debian,
    pub(super) guest: Guest,
    pub(super) formats: Vec<Format>,
    pub(super) volume: Volume,
    name: String,
    log: PathBuf,
    timeout: Duration,
    lab_cpus: u32,
}

/// One boot of the guest.
#[derive(Debug)]
pub(super) struct Boot {
    end: End,
    /// What its init is to do.
    cmdline: String,
    /// `cantle`'s options for its disks.
    disks: String,
    options: String,
    tools: bool,
    vcpus: u32,
    /// When it is cut short, after the first write.
    after: Duration,
}

impl Boot {
    /// fio and file systems on a disk each.
    pub(super) fn work(formats: &[Format], args: &DemoArgs) -> Self {
        let mut names = disk_names();
        let (mut disks, mut words) = (String::new(), String::new());
        for of in [Use::Fio, Use::Ext4] {
            let mut named = Vec::new();
            for (format, name) in formats.iter().zip(&mut names) {
                disks.push_str(&option(*format, of, &name, args));
                named.push(format!("{}:{name}", format.name()));
            }
            words.push_str(&format!(" storage.{}={}", of.name(), named.join(",")));
        }
        Self::new(args, End::Off, format!("storage=work{words}"), disks, true)
    }

    /// Writes that are cut short, and what is to be seen of earlier ones.
    pub(super) fn durable(
        formats: &[Format],
        args: &DemoArgs,
        end: End,
        steps: &str,
        after: Duration,
    ) -> Self {
        let (mut disks, mut named) = (String::new(), Vec::new());
        for (format, name) in formats.iter().zip(disk_names()) {
            disks.push_str(&option(*format, Use::Durable, &name, args));
            named.push(name);
        }
        let cmdline = format!(
            "storage={steps} storage.durable={} storage.after={}",
            named.join(","),
            after.as_millis()
        );
        Self {
            after,
            ..Self::new(args, end, cmdline, disks, false)
        }
    }

    fn new(args: &DemoArgs, end: End, cmdline: String, disks: String, tools: bool) -> Self {
        let transport = args.transport.iter();
        let [all, few] = VCPUS;
        Self {
            end,
            cmdline: format!("{cmdline} {}", args.cmdline),
            disks,
            options: transport.map(|t| format!("--transport {t}")).collect(),
            tools,
            vcpus: args.vcpus.unwrap_or(if tools { all } else { few }),
            after: Duration::ZERO,
        }
    }
}

fn option(format: Format, of: Use, name: &str, args: &DemoArgs) -> String {
    let image = format!("{IMAGES}/{}", file(format, of));
    format!("--disk {} ", disk(&image, format, name, args))
}

/// A disk as `cantle` is told of it.
pub(super) fn disk(image: &str, format: Format, name: &str, args: &DemoArgs) -> String {
    let mut disk = format!("path={image},vdev={name},format={}", format.name());
    if !args.disk_options.is_empty() {
        disk.push_str(&format!(",{}", args.disk_options));
    }
    disk
}

impl Stage {
    /// Makes the images.
    pub(super) fn new(
        folder: &Path,
        host: Debian,
        guest: Guest,
        args: &DemoArgs,
        formats: &[Format],
    ) -> Result<Self> {
        let content = folder.join("content");
        workspace::make(&content)?;
        for format in formats {
            for of in Use::ALL {
                format.make(&content.join(file(*format, of)), DISK)?;
            }
        }
        // Each image, a copy of one, and what the file system keeps for itself.
        let size = DISK * (formats.len() as u64 * 4 + 4);
        let volume = Volume::make(folder.join("volume"), size, &content)?;
        fs::remove_dir_all(&content)?;
        let log = format!("storage-{}-{}.log", host.name(), guest.name());
        let log = workspace::lab("logs")?.join(log);
        // A run that is under way elsewhere keeps its own file.
        let _ = fs::remove_file(&log);
        File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        Ok(Self {
            folder: folder.to_owned(),
            host,
            guest,
            formats: formats.to_vec(),
            volume,
            name: format!("{} on {}", guest.name(), host.name()),
            log,
            timeout: Duration::from_secs(args.timeout),
            lab_cpus: args.lab_cpus(args.vcpus.unwrap_or(VCPUS[0])),
        })
    }

    /// The pair's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Boots the host.
    pub(super) fn lab(&self) -> Result<Lab> {
        say(&format!("host {}: getting ready", self.host.name()));
        let mut found = programs::built();
        found.extend(programs_for_guest());
        Lab::boot(&Setup {
            host: self.host,
            memory: LAB_MEMORY,
            cpus: self.lab_cpus,
            disks: &[self.volume.image().to_owned()],
            programs: &found,
        })
    }

    /// Boots the guest; what it said, where it came to the end that was due.
    pub(super) fn boot(&self, lab: &mut Lab, boot: &Boot, history: &History) -> Result<Said> {
        let mut said = Said::default();
        self.run(lab, boot, history, &mut said)
            .and_then(|()| said.judge(boot.end))
            .map_err(|error| shown(error, &self.name, &self.log))?;
        Ok(said)
    }

    fn run(&self, lab: &mut Lab, boot: &Boot, history: &History, said: &mut Said) -> Result<()> {
        let mut log = OpenOptions::new().append(true).open(&self.log)?;
        writeln!(log, "\n--- {:?}: {}", boot.end, boot.cmdline)?;
        let begun = Instant::now();
        let script = self.script(boot, history)?;
        let ended = lab.run(&script, Some(begun + self.timeout), &mut |_, bytes| {
            log.write_all(bytes)?;
            for line in said.push(bytes) {
                say(&format!(
                    "{} {:6.1} s  {line}",
                    self.name,
                    begun.elapsed().as_secs_f32()
                ));
            }
            let cut = boot.end == End::Lost && said.has_written_for(boot.after);
            if cut || said.is_hopeless() {
                bail!(Enough);
            }
            Ok(())
        });
        match ended {
            Ok(Some(_)) if boot.end == End::Lost => bail!("the guest ended by itself"),
            Ok(Some(_)) => Ok(()),
            Ok(None) => bail!(GuestLost(format!("no end after {:?}", self.timeout))),
            // The kernel's word on a disk is for others to judge; where it is only slow to come, the guest hung.
            Err(error) if error.is::<Enough>() && said.standstill() > STANDSTILL => {
                bail!(GuestLost(format!(
                    "nothing became durable for {:?}",
                    said.standstill()
                )))
            }
            Err(error) if error.is::<Enough>() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn script(&self, boot: &Boot, history: &History) -> Result<String> {
        let asset = workspace::asset("storage-host.sh");
        let body = fs::read_to_string(&asset)
            .with_context(|| format!("cannot read {}", asset.display()))?;
        let images = format!("/guests/{}", self.guest.name());
        let tools = match boot.tools {
            true => format!("{images}/{}.cpio", Tools::Storage.name()),
            false => String::new(),
        };
        let killed = boot.end == End::Killed;
        let copies: Vec<String> = match killed {
            true => self
                .formats
                .iter()
                .map(|f| file(*f, Use::Durable))
                .collect(),
            false => Vec::new(),
        };
        let after = if killed { boot.after.as_millis() } else { 0 };
        Ok(lab::assigned(&[
            ("BUSYBOX", "busybox"),
            ("CANTLE", "cantle"),
            ("KERNEL", &format!("{images}/vmlinuz")),
            ("INITRD", &format!("{images}/initrd")),
            ("TOOLS", &tools),
            ("PROGRAMS", &lab::paths(&programs_for_guest())),
            ("HISTORY", history.text()),
            ("VCPUS", &boot.vcpus.to_string()),
            (
                "CMDLINE",
                &format!("{} storage.run={}", boot.cmdline, history.next()),
            ),
            ("VOLUME", "/dev/vda"),
            ("IMAGES", IMAGES),
            ("DISKS", &boot.disks),
            ("OPTIONS", &boot.options),
            ("KILL_AFTER", &after.to_string()),
            ("COPIES", &copies.join(" ")),
        ]) + &body)
    }
}

/// What goes into the guest's initial file system besides Debian's tools.
pub(super) fn programs_for_guest() -> [PathBuf; 3] {
    [
        guests::program("durable"),
        workspace::asset("guest-storage.sh"),
        workspace::asset("storage.fio"),
    ]
}

/// The guest has written for long enough, or too long: its host may go.
#[derive(Debug)]
struct Enough;

impl fmt::Display for Enough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lab is to be ended")
    }
}

impl std::error::Error for Enough {}
