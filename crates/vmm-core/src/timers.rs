//! The vCPUs' one-shot and periodic timers, and the guest's watchdogs: timer file descriptors of the host.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use cantle_abi::{Errno, VcpuId};
use kvm_ioctls::VmFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_gettime, timerfd_settime,
};

use crate::kvm::vm::system_time_ns;

/// Watchdogs that a domain can have (Xen's number).
const WATCHDOGS: usize = 2;
/// The farthest that a timer is set into the future: what is later would not come in the machine's life.
const FARTHEST_S: u64 = 100 * 365 * 24 * 3600;

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimerKind {
    /// `VIRQ_TIMER` of a vCPU.
    Vcpu(VcpuId),
    /// The domain is to be ended.
    Watchdog,
}

/// All timers of a domain. Setting one is a system call on its descriptor; who waits for them is a thread of the host.
#[derive(Debug)]
pub(crate) struct Timers {
    vm: Arc<VmFd>,
    singleshot: Vec<OwnedFd>,
    periodic: Vec<OwnedFd>,
    watchdogs: Vec<OwnedFd>,
    /// Whose turn it is to start or stop a watchdog.
    turn: Mutex<()>,
}

impl Timers {
    pub(crate) fn new(vm: Arc<VmFd>, vcpus: u32) -> io::Result<Self> {
        let make = |count: usize| -> io::Result<Vec<OwnedFd>> {
            (0..count)
                .map(|_| {
                    Ok(timerfd_create(
                        TimerfdClockId::Monotonic,
                        TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
                    )?)
                })
                .collect()
        };
        let vcpus = usize::try_from(vcpus).map_err(io::Error::other)?;
        Ok(Self {
            vm,
            singleshot: make(vcpus)?,
            periodic: make(vcpus)?,
            watchdogs: make(WATCHDOGS)?,
            turn: Mutex::new(()),
        })
    }

    /// The descriptors to wait for, each with what it means when it is readable.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, TimerKind)> {
        let singleshot = (0..)
            .zip(&self.singleshot)
            .map(|(n, fd)| (fd.as_fd(), TimerKind::Vcpu(VcpuId(n))));
        let periodic = (0..)
            .zip(&self.periodic)
            .map(|(n, fd)| (fd.as_fd(), TimerKind::Vcpu(VcpuId(n))));
        let watchdogs = self
            .watchdogs
            .iter()
            .map(|fd| (fd.as_fd(), TimerKind::Watchdog));
        singleshot.chain(periodic).chain(watchdogs)
    }

    fn of(fds: &[OwnedFd], vcpu: VcpuId) -> Result<&OwnedFd, Errno> {
        usize::try_from(vcpu.0)
            .ok()
            .and_then(|v| fds.get(v))
            .ok_or(Errno::ENOENT)
    }

    /// Sets a vCPU's one-shot timer to a system time; what is past fires at once.
    pub(crate) fn set_singleshot(&self, vcpu: VcpuId, timeout_abs_ns: u64) -> Result<(), Errno> {
        let left = timeout_abs_ns.saturating_sub(system_time_ns(&self.vm));
        // A zero would stop the timer.
        set(Self::of(&self.singleshot, vcpu)?, left.max(1), 0)
    }

    /// Stops a vCPU's one-shot timer; returns the system time that it was set to, if it was.
    pub(crate) fn take_singleshot(&self, vcpu: VcpuId) -> Option<u64> {
        let fd = Self::of(&self.singleshot, vcpu).ok()?;
        let left = timerfd_gettime(fd).ok()?.it_value;
        set(fd, 0, 0).ok()?;
        let seconds = u64::try_from(left.tv_sec).ok()?;
        let ns = seconds.saturating_mul(1_000_000_000) + u64::try_from(left.tv_nsec).ok()?;
        (ns != 0).then(|| system_time_ns(&self.vm).saturating_add(ns))
    }

    pub(crate) fn stop_singleshot(&self, vcpu: VcpuId) -> Result<(), Errno> {
        set(Self::of(&self.singleshot, vcpu)?, 0, 0)
    }

    /// Sets a vCPU's periodic timer; a period of 0 stops it.
    pub(crate) fn set_periodic(&self, vcpu: VcpuId, period_ns: u64) -> Result<(), Errno> {
        set(Self::of(&self.periodic, vcpu)?, period_ns, period_ns)
    }

    /// Starts (`id` 0), feeds or stops (`timeout_s` 0) a watchdog; returns its number, from 1, or 0 for one that was there.
    ///
    /// # Errors
    ///
    /// `ENOSPC` where all run; `EINVAL` where that one does not, or one is started that would expire at once.
    pub(crate) fn watchdog(&self, id: u32, timeout_s: u32) -> Result<u32, Errno> {
        let ns = u64::from(timeout_s).saturating_mul(1_000_000_000);
        // Two vCPUs do not start the same one.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if id == 0 {
            if timeout_s == 0 {
                return Err(Errno::EINVAL);
            }
            for (number, fd) in (1_u32..).zip(&self.watchdogs) {
                if !runs(fd)? {
                    set(fd, ns, 0)?;
                    return Ok(number);
                }
            }
            return Err(Errno::ENOSPC);
        }
        let index = usize::try_from(id - 1).map_err(|_| Errno::EINVAL)?;
        let fd = self.watchdogs.get(index).ok_or(Errno::EINVAL)?;
        if !runs(fd)? {
            return Err(Errno::EINVAL);
        }
        set(fd, ns, 0)?;
        Ok(0)
    }
}

fn runs(fd: &OwnedFd) -> Result<bool, Errno> {
    let left = timerfd_gettime(fd).map_err(|_| Errno::EINVAL)?.it_value;
    Ok(left.tv_sec != 0 || left.tv_nsec != 0)
}

fn set(fd: &OwnedFd, first_ns: u64, period_ns: u64) -> Result<(), Errno> {
    let spec = Itimerspec {
        it_interval: timespec(period_ns),
        it_value: timespec(first_ns),
    };
    timerfd_settime(fd, TimerfdTimerFlags::empty(), &spec)
        .map(drop)
        .map_err(|_| Errno::EINVAL)
}

fn timespec(ns: u64) -> Timespec {
    let seconds = (ns / 1_000_000_000).min(FARTHEST_S);
    let rest = ns % 1_000_000_000;
    Timespec {
        tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(rest).unwrap_or(0),
    }
}
