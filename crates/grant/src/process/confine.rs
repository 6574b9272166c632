//! The confinement of a back end: what keeps it behind its windows, whatever it becomes.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

use super::filter::{self, Circumstances};
use super::rings;

/// Why a process cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// There are other threads, which a confinement would not reach.
    #[error("the process has {0} threads already")]
    Threads(usize),
    /// A descriptor that would be a way round: an io_uring that was not named, a foreign userfaultfd, a file of `/proc`.
    #[error("descriptor {0} may not be open: {1}")]
    Descriptor(RawFd, String),
    /// An io_uring cannot be restricted; it must have been made disabled (`IORING_SETUP_R_DISABLED`).
    #[error("cannot restrict an io_uring")]
    Ring(#[source] io::Error),
    /// The filter of system calls cannot be made or installed.
    #[error("no filter of system calls")]
    Filter(#[source] seccompiler::Error),
    /// The system.
    #[error("cannot give up rights")]
    System(#[source] io::Error),
}

/// What a back end still may do when it is confined, besides plain I/O on what it has open, memory of its own, threads and time.
#[derive(Debug, Default)]
pub struct Confinement<'a> {
    also: Vec<libc::c_long>,
    ioctls: Vec<u32>,
    rings: Vec<BorrowedFd<'a>>,
}

impl<'a> Confinement<'a> {
    /// Nothing besides.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A system call (`SYS_…`) that the program needs besides. Who names one vouches for it: it must be no way to other memory, to paths, or to
    /// another process.
    #[must_use]
    pub fn allow(mut self, call: libc::c_long) -> Self {
        self.also.push(call);
        self
    }

    /// An `ioctl` command that the program needs; vouched for likewise.
    #[must_use]
    pub fn allow_ioctl(mut self, command: u32) -> Self {
        self.ioctls.push(command);
        self
    }

    /// An io_uring that the program uses, made disabled (`IORING_SETUP_R_DISABLED`): it is restricted to reading, writing and waiting, and enabled.
    #[must_use]
    pub fn ring(mut self, ring: BorrowedFd<'a>) -> Self {
        self.rings.push(ring);
        self
    }

    /// Confines this process, which has one thread, for good.
    pub(super) fn apply(&self, arena: Range<usize>, uffd: RawFd) -> Result<(), ConfineError> {
        let threads = fs::read_dir("/proc/self/task")
            .map_err(ConfineError::System)?
            .count();
        if threads != 1 {
            return Err(ConfineError::Threads(threads));
        }
        for ring in &self.rings {
            rings::restrict(*ring).map_err(ConfineError::Ring)?;
        }
        self.look_at_descriptors(uffd)?;
        give_up_rights().map_err(ConfineError::System)?;
        let programs = filter::programs(&Circumstances {
            arena,
            uffd,
            pid: std::process::id(),
            also: &self.also,
            ioctls: &self.ioctls,
        });
        for program in programs.map_err(|e| ConfineError::Filter(e.into()))? {
            seccompiler::apply_filter(&program).map_err(ConfineError::Filter)?;
        }
        Ok(())
    }

    fn look_at_descriptors(&self, uffd: RawFd) -> Result<(), ConfineError> {
        let list = fs::read_dir("/proc/self/fd").map_err(ConfineError::System)?;
        let names: Vec<_> = list
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .collect();
        for name in names {
            let Some(fd) = name.to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
                continue;
            };
            // The list's own descriptor is closed by now.
            let Ok(target) = fs::read_link(format!("/proc/self/fd/{fd}")) else {
                continue;
            };
            let target = target.to_string_lossy();
            let named = self.rings.iter().any(|ring| ring.as_raw_fd() == fd);
            let bad = (target.ends_with("[io_uring]") && !named)
                || (target.ends_with("[userfaultfd]") && fd != uffd)
                || target.starts_with("/proc/");
            if bad {
                return Err(ConfineError::Descriptor(fd, target.into_owned()));
            }
        }
        Ok(())
    }
}

fn give_up_rights() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_no_new_privs(true)?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    Ok(set_capabilities(None, sets)?)
}
