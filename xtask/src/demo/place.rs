//! Where the guest runs: in a lab, or right here.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::disk::Disk;
use crate::images::{self, Debian, Guest, Image};
use crate::lab::{Lab, Setup};
use crate::process::{self, Guarded};
use crate::programs;

/// MiB of a lab's memory: a guest of 512, and what goes through the network twice.
const LAB_MEMORY: u32 = 2048;

/// Takes the output of a script as it comes.
type Sink<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// A host that runs scripts.
#[derive(Debug)]
pub(super) enum Place {
    /// An emulated one.
    Lab(Box<Lab>),
    /// This machine.
    Native,
}

impl Place {
    /// Boots a lab with so many CPUs and these disks, and with these programs besides the workspace's own.
    pub(super) fn lab(host: Debian, cpus: u32, disks: &[Disk], extra: &[PathBuf]) -> Result<Self> {
        let mut found = programs::built();
        found.extend_from_slice(extra);
        for program in &found {
            ensure!(program.exists(), "{} is not built", program.display());
        }
        let disks: Vec<PathBuf> = disks.iter().map(|d| d.image().to_path_buf()).collect();
        let lab = Lab::boot(&Setup {
            host,
            memory: LAB_MEMORY,
            cpus,
            disks: &disks,
            programs: &found,
        })?;
        Ok(Self::Lab(Box::new(lab)))
    }

    /// This machine, if it will do.
    pub(super) fn native() -> Result<Self> {
        for device in ["/dev/kvm", "/dev/net/tun"] {
            ensure!(Path::new(device).exists(), "this machine has no {device}");
        }
        let cantle = programs::native();
        ensure!(cantle.exists(), "{} is not built", cantle.display());
        Ok(Self::Native)
    }

    /// Runs a script; the exit code, or `None` when the deadline came first.
    pub(super) fn run(
        &mut self,
        script: &str,
        deadline: Instant,
        sink: &mut Sink<'_>,
    ) -> Result<Option<u8>> {
        match self {
            Self::Lab(lab) => lab.run(script, Some(deadline), &mut |_, bytes| sink(bytes)),
            Self::Native => run_here(script, deadline, sink),
        }
    }

    /// Whether it takes another script.
    pub(super) fn is_free(&self) -> bool {
        match self {
            Self::Lab(lab) => lab.is_free(),
            Self::Native => true,
        }
    }

    /// What the host calls the guest's disk.
    pub(super) fn disk(&self, index: usize, disk: &Disk) -> PathBuf {
        match self {
            Self::Lab(_) => {
                let letter = ('a'..='z').nth(index).unwrap_or('z');
                PathBuf::from(format!("/dev/vd{letter}"))
            }
            Self::Native => disk.image().to_path_buf(),
        }
    }

    /// What the host calls the guest's kernel and initial file system.
    pub(super) fn guest(&self, image: Image, guest: Guest) -> Image {
        match self {
            Self::Lab(_) => {
                let folder = Path::new("/guests").join(guest.name());
                Image {
                    kernel: folder.join("vmlinuz"),
                    initrd: folder.join("initrd"),
                }
            }
            Self::Native => image,
        }
    }

    /// What the host calls a file in the folder of a guest's images.
    pub(super) fn beside(&self, file: &Path, image: &Image) -> PathBuf {
        match self {
            Self::Lab(_) => image
                .initrd
                .with_file_name(file.file_name().unwrap_or_default()),
            Self::Native => file.to_path_buf(),
        }
    }

    /// What the host calls one of the extra programs.
    pub(super) fn program(&self, program: &Path) -> PathBuf {
        match self {
            Self::Lab(_) => {
                Path::new("/usr/local/bin").join(program.file_name().unwrap_or_default())
            }
            Self::Native => program.to_path_buf(),
        }
    }

    /// The host's busybox.
    pub(super) fn busybox(&self) -> Result<PathBuf> {
        match self {
            Self::Lab(_) => Ok(PathBuf::from("busybox")),
            Self::Native => images::busybox(),
        }
    }

    /// The host's `cantle`.
    pub(super) fn cantle(&self) -> PathBuf {
        match self {
            Self::Lab(_) => PathBuf::from("cantle"),
            Self::Native => programs::native(),
        }
    }

    /// Leaves the place; a lab is switched off.
    pub(super) fn leave(self) -> Result<()> {
        match self {
            Self::Lab(lab) => lab.off(),
            Self::Native => Ok(()),
        }
    }
}

/// Whether the CPU offers virtualisation; where it does not, /dev/kvm may be there but runs no stock kernel.
pub(super) fn has_virtualisation() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|info| {
        info.lines()
            .filter(|line| line.starts_with("flags"))
            .any(|line| line.split_whitespace().any(|f| f == "svm" || f == "vmx"))
    })
}

/// Whether a guest on this machine's /dev/kvm can use all that a kernel uses; `cantle` tries.
pub(super) fn runs_stock_kernels(cantle: &Path) -> bool {
    process::output(Command::new(cantle).arg("probe-kvm")).is_ok()
}

fn run_here(script: &str, deadline: Instant, sink: &mut Sink<'_>) -> Result<Option<u8>> {
    let (mut reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut shell = Guarded::spawn(&mut command)?;
    // With the command goes this process's own writing end, or the reader would never see the end.
    drop(command);
    let (sender, output) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(len @ 1..) = reader.read(&mut buffer) {
            let bytes: Vec<u8> = buffer.iter().take(len).copied().collect();
            if sender.send(bytes).is_err() {
                return;
            }
        }
    });
    loop {
        match output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(bytes) => sink(&bytes)?,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let Some(status) = shell.wait_until(deadline)? else {
        return Ok(None);
    };
    match status.code().map(u8::try_from) {
        Some(Ok(code)) => Ok(Some(code)),
        _ => bail!("the demo's script ended by a signal: {status}"),
    }
}
