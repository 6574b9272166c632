//! Child processes: each in a process group of its own, ended when it is no longer wanted.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Pid;

use crate::interrupt;

/// How often a running child is looked at.
const POLL: Duration = Duration::from_millis(20);

/// A child that is ended, with its whole process group, when this is dropped.
#[derive(Debug)]
pub(crate) struct Guarded {
    child: Child,
    group: Option<Pid>,
}

impl Guarded {
    /// Starts `command` in a process group of its own, without standard input unless the caller set one.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            interrupt::add_group(group);
        }
        Ok(Self { child, group })
    }

    /// Its standard output, where that is a pipe that nobody has taken yet.
    pub(crate) fn output(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits for the end; an unsuccessful one is an error that names `what`.
    pub(crate) fn finish(mut self, what: &str) -> Result<()> {
        let status = self.child.wait().context("cannot wait for a child")?;
        if !status.success() {
            bail!("`{what}` failed: {status}");
        }
        Ok(())
    }

    /// The exit status, if the child has ended.
    pub(crate) fn status(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot wait for a child")
    }

    /// Waits until `deadline` at most; `None` when the child still runs.
    pub(crate) fn wait_until(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        loop {
            let status = self.status()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let running = matches!(self.child.try_wait(), Ok(None));
        if let Some(group) = self.group {
            if running {
                interrupt::stop_group(group);
            }
            interrupt::remove_group(group);
        }
        let _ = self.child.wait();
    }
}

/// The command as one would type it, for messages.
pub(crate) fn line(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let mut line = program.to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

/// Runs a command to its end with its output shown; an unsuccessful end is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let child = Guarded::spawn(command.stdin(Stdio::null()))?;
    child.finish(&line(command))
}

/// Runs a command and returns its standard output; an unsuccessful end is an error that quotes standard error's end.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let tail = said.trim().lines().last().unwrap_or("no message");
        bail!("`{}` failed: {}: {tail}", line(command), done.status);
    }
    String::from_utf8(done.stdout).with_context(|| format!("`{}` wrote no text", line(command)))
}

/// Whether a program is found in `PATH`.
pub(crate) fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
