//! Xen itself, from Debian, in the emulator: a host whose PV guests are to be compared with ours.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cpio::Archive;
use crate::images::{self, Guest, Tools};
use crate::interrupt::Scratch;
use crate::packages::{self, Content, Release, Set};
use crate::process::Guarded;
use crate::qemu::{self, Machine};
use crate::{lab, workspace};

/// The hypervisor, and what its first domain runs.
pub(crate) const SET: Set = Set {
    name: "xen",
    release: Release::Trixie,
    content: Content::Closure(&["xen-hypervisor-4.20-amd64", "xen-utils-4.20"]),
};

/// Where Debian has Xen's programs.
pub(crate) const PROGRAMS: &str = "usr/lib/xen-4.20/bin";

/// MiB of the machine, and of its first domain.
const MEMORY: u32 = 2560;
const FIRST_DOMAIN: u32 = 1536;

/// The emulated processor: on the lab's, Xen finds a register of such a CPU that is not emulated.
const CPU: &str = "max,+svm,+npt";

/// How often the console is looked at.
const POLL: Duration = Duration::from_millis(200);

/// PV guests on such a host, one after another.
#[derive(Debug)]
pub(crate) struct Guests<'a> {
    /// The release and kernel.
    pub(crate) guest: Guest,
    /// The program that each runs.
    pub(crate) program: &'a Path,
    /// How many.
    pub(crate) rounds: u32,
    /// CPUs of the machine.
    pub(crate) cpus: u32,
    /// For all of it.
    pub(crate) timeout: Duration,
}

impl Guests<'_> {
    /// Runs them; each line that the console said goes to `sink`.
    pub(crate) fn run(&self, sink: &mut dyn FnMut(&str)) -> Result<()> {
        let host = images::xen_host()?;
        let scratch = Scratch::new("xen")?;
        let hypervisor = scratch.path().join("xen");
        unpack(&hypervisor)?;
        let initrd = scratch.path().join("initrd");
        self.furnish(&host.initrd, &initrd)?;
        // The first domain's kernel with its command line, and its initial file system: QEMU's way to name a multiboot kernel's modules.
        let words = format!("console=hvc0 panic=-1 quiet rounds={}", self.rounds);
        let modules = format!("{} {words},{}", host.kernel.display(), initrd.display());
        let console = workspace::lab("logs")?.join(format!("xen-{}.log", self.guest.name()));
        let cmdline = format!(
            "console=com1 com1=115200 loglvl=warning dom0_mem={FIRST_DOMAIN}M,max:{FIRST_DOMAIN}M dom0_max_vcpus={}",
            self.cpus
        );
        let mut command = qemu::command(&Machine {
            kernel: &hypervisor,
            initrd: Path::new(&modules),
            cmdline: &cmdline,
            memory: MEMORY,
            cpus: self.cpus,
            console: &console,
            ports: &[],
            folders: &[],
            disks: &[],
        })?;
        command.args(["-cpu", CPU]);
        let said = console.with_extension("emulator.log");
        command.stderr(File::create(&said)?);
        File::create(&console)?;
        let mut emulator = Guarded::spawn(&mut command)?;
        let outcome = follow(&console, &mut emulator, Instant::now() + self.timeout, sink);
        outcome.with_context(|| {
            format!(
                "Xen's host; the end of its console ({}):\n{}\n{}",
                console.display(),
                lab::tail(&console, 20),
                lab::tail(&said, 3)
            )
        })
    }

    /// The host's initial file system: its own, Xen's programs, and the guest's files.
    fn furnish(&self, base: &Path, initrd: &Path) -> Result<()> {
        let image = images::guest(self.guest)?;
        let tools = images::tools(self.guest, Tools::Xen)?;
        let word = self
            .program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let mut inner = Archive::new(Vec::new());
        inner.file(&format!("bin/{word}"), 0o755, &read(self.program)?)?;
        let mut guests = read(&image.initrd)?;
        guests.extend(inner.finish()?);

        let mut out = BufWriter::new(File::create(initrd)?);
        for part in [base, &tools] {
            std::io::copy(&mut File::open(part)?, &mut out)?;
        }
        let mut archive = Archive::new(&mut out);
        for folder in ["guest", "var", "var/log"] {
            archive.folder(folder)?;
        }
        archive.file("guest/vmlinuz", 0o644, &read(&image.kernel)?)?;
        archive.file("guest/initrd", 0o644, &guests)?;
        let cmdline = format!("console=hvc0 quiet panic=-1 work={word}");
        archive.file("guest/cmdline", 0o644, cmdline.as_bytes())?;
        archive.finish()?;
        out.flush()?;
        Ok(())
    }
}

/// The hypervisor, which is compressed in its package.
fn unpack(to: &Path) -> Result<()> {
    let boot = packages::unpacked(&SET)?.join("boot");
    let found = fs::read_dir(&boot)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| is_hypervisor(path))
        .with_context(|| format!("{} has no hypervisor", boot.display()))?;
    let status = Command::new("gzip")
        .arg("-dc")
        .arg(&found)
        .stdout(File::create(to)?)
        .status()
        .context("cannot run gzip")?;
    ensure!(status.success(), "cannot unpack {}", found.display());
    Ok(())
}

fn is_hypervisor(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("xen-4.") && name.ends_with("amd64.gz")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Hands over the console's lines as they come, until the host says that it has done all, or ends.
fn follow(
    console: &PathBuf,
    emulator: &mut Guarded,
    deadline: Instant,
    sink: &mut dyn FnMut(&str),
) -> Result<()> {
    let mut seen = 0;
    let mut partial = String::new();
    loop {
        let ended = emulator.status()?;
        let mut file = File::open(console)?;
        file.seek(SeekFrom::Start(seen))?;
        let mut bytes = Vec::new();
        seen += file.read_to_end(&mut bytes)? as u64;
        partial.push_str(&String::from_utf8_lossy(&bytes));
        while let Some((line, rest)) = partial.split_once('\n') {
            let line = line.trim_matches('\r').to_owned();
            partial = rest.to_owned();
            sink(&line);
            if line == "xen: end" {
                return Ok(());
            }
            if let Some((_, why)) = line.split_once("xen: failed: ") {
                bail!("{why}");
            }
        }
        if let Some(status) = ended {
            bail!("the emulator ended: {status}");
        }
        ensure!(Instant::now() < deadline, "no end in time");
        thread::sleep(POLL);
    }
}
