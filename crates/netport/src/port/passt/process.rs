//! A child process that ends with us.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tracing::{debug, warn};

use super::PasstError;

/// How long a child has to find fault with its options.
const PATIENCE: Duration = Duration::from_millis(300);
/// What is kept of its complaints.
const LINES_MAX: usize = 4;
const LINE_MAX: u64 = 1000;

/// A running child. It is told to end when this is dropped, and a thread of its own waits for it.
#[derive(Debug)]
pub(super) struct Process {
    child: OwnedFd,
}

impl Process {
    /// Starts a program with a socket for its standard input.
    pub(super) fn start(
        program: &Path,
        arguments: Vec<OsString>,
        socket: UnixStream,
    ) -> Result<Self, PasstError> {
        let child = Command::new(program)
            .args(arguments)
            .stdin(OwnedFd::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => PasstError::NotInstalled {
                program: program.to_owned(),
            },
            _ => PasstError::Start(source),
        })?;
        let (ended, end) = channel();
        let held = hold(&child);
        let stderr = child.stderr.take();
        let thread = std::thread::Builder::new().name("passt".to_owned());
        let watching = thread.spawn(move || watch(child, stderr, &ended));
        // Where a thread cannot be started, the socket's other end goes away with this call, and the child with it.
        watching.map_err(PasstError::Start)?;
        let process = Self {
            child: held.map_err(PasstError::Start)?,
        };
        match end.recv_timeout(PATIENCE).ok() {
            Some((status, complaint)) => Err(PasstError::Ended { status, complaint }),
            None => Ok(process),
        }
    }
}

impl Process {
    /// Whether it has not ended yet.
    pub(super) fn runs(&self) -> bool {
        let mut end = [PollFd::new(&self.child, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut end, Some(&now)).is_ok_and(|ended| ended == 0)
    }

    /// Tells it to end.
    pub(super) fn end(&self) {
        // It may have ended already.
        let _ = pidfd_send_signal(&self.child, Signal::TERM);
    }
}

/// A descriptor of the child, whose number may be another's once it has been waited for.
fn hold(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Passes on what the child says, waits for its end and says how it ended.
fn watch(mut child: Child, stderr: Option<ChildStderr>, ended: &Sender<(ExitStatus, String)>) {
    let (mut last, mut usage) = (VecDeque::new(), false);
    let mut lines = stderr.map(BufReader::new);
    while let Some(line) = lines.as_mut().and_then(line) {
        debug!(line, "passt");
        // After what it does not like it prints its whole manual; and a host without a syslog has a line for each of ours.
        usage |= line.starts_with("Usage:");
        if usage || line.starts_with("Failed to send") {
            continue;
        }
        if last.len() == LINES_MAX {
            last.pop_front();
        }
        last.push_back(line);
    }
    let complaint = Vec::from(last).join("; ");
    match child.wait() {
        Ok(status) => {
            // Nobody listens any more but for a child that has just been started.
            if ended.send((status, complaint.clone())).is_err() && !status.success() {
                warn!(%status, complaint, "passt has ended");
            }
        }
        Err(error) => warn!(%error, "passt cannot be waited for"),
    }
}

/// A line, of which the end may be left for the next; `None` at the end.
fn line(from: &mut BufReader<ChildStderr>) -> Option<String> {
    let mut bytes = Vec::new();
    let read = from.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes);
    if read.ok()? == 0 {
        return None;
    }
    Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
