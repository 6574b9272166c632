//! A vhost-user daemon as a child: `qemu-storage-daemon`, or another.

// UNSAFETY: the child asks the kernel for its own death between fork and exec.
#![expect(unsafe_code)]

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::json;
use tempfile::TempDir;

use super::Options;
use crate::cpu_clock::CpuClock;

const PROGRAM: &str = "qemu-storage-daemon";
/// How long it may take until it listens.
const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon that runs until it is dropped, or the thread that started it ends.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    clock: CpuClock,
    /// Of its socket and of what it says.
    folder: TempDir,
}

impl Daemon {
    /// Starts `qemu-storage-daemon` for a file; the daemon, and the one connection that it takes.
    ///
    /// # Errors
    ///
    /// It is not installed, or it ends at once.
    pub(super) fn start(image: &Path, options: &Options) -> Result<(Self, UnixStream)> {
        Self::run(PROGRAM, |command, socket| {
            arguments(command, image, socket, options)
        })
    }

    /// Starts any, which is told by `arguments` where to listen.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub(super) fn run(
        program: &str,
        arguments: impl FnOnce(&mut Command, &Path) -> Result<()>,
    ) -> Result<(Self, UnixStream)> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(program);
        arguments(&mut command, &folder.path().join("socket"))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(said(&folder))?);
        // SAFETY: a system call and nothing else, which is allowed between fork and exec.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let child = command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound => anyhow!("{program} is not installed"),
            _ => anyhow!(error).context(format!("cannot run {program}")),
        })?;
        let mut daemon = Self {
            clock: CpuClock::of(child.id())?,
            child,
            folder,
        };
        let stream = daemon.connect(program)?;
        Ok((daemon, stream))
    }

    fn connect(&mut self, program: &str) -> Result<UnixStream> {
        let begun = Instant::now();
        loop {
            if let Ok(stream) = UnixStream::connect(self.folder.path().join("socket")) {
                return Ok(stream);
            }
            if self.child.try_wait()?.is_some() || begun.elapsed() > PATIENCE {
                let said = fs::read_to_string(said(&self.folder)).unwrap_or_default();
                bail!("{program} does not listen: {}", said.trim());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The CPU time that it has used.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub(super) fn cpu_time(&self) -> Result<Duration> {
        self.clock.now()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn said(folder: &TempDir) -> PathBuf {
    folder.path().join("said")
}

/// The options in JSON, where a path needs no escapes.
fn arguments(command: &mut Command, image: &Path, socket: &Path, options: &Options) -> Result<()> {
    let text = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.with_context(|| format!("no text: {}", path.display()))
    };
    let file = json!({
        "driver": "file",
        "node-name": "disk",
        "filename": text(image)?,
        "cache": {"direct": options.direct},
        "aio": "io_uring",
    });
    let mut export = json!({
        "type": "vhost-user-blk",
        "id": "export",
        "node-name": "disk",
        "addr": {"type": "unix", "path": text(socket)?},
        "writable": true,
        "num-queues": options.queues,
    });
    if options.iothread {
        let thread = json!({"qom-type": "iothread", "id": "thread"});
        command.arg("--object").arg(thread.to_string());
        export["iothread"] = "thread".into();
    }
    command.arg("--blockdev").arg(file.to_string());
    command.arg("--export").arg(export.to_string());
    Ok(())
}
