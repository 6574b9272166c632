//! How long each vCPU ran, waited for a CPU, and slept: the run state that guests read to account for stolen time.
//!
//! The host's scheduler knows it: a vCPU is a thread, with CPU time and time on the run queue (`/proc/thread-self/schedstat`).
//! The area in guest memory is brought up to date at most every [`REFRESH`], by the vCPU's own thread when it comes by.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cantle_abi::vcpu::{
    RUNSTATE_blocked, RUNSTATE_offline, RUNSTATE_runnable, RUNSTATE_running, VcpuRunstateInfo,
};
use cantle_abi::{Errno, PAGE_SIZE, VcpuId};
use zerocopy::IntoBytes;

use crate::hypercall::Caller;
use crate::memory::GuestRam;

/// How old the figures may be.
const REFRESH: Duration = Duration::from_millis(5);
/// In `state_entry_time`: an update is being written.
const XEN_RUNSTATE_UPDATE: u64 = 1 << 63;

/// Where a vCPU's run state lies in guest-physical memory: one piece, or two where it crosses a page's end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area {
    first: u64,
    first_len: usize,
    second: u64,
}

/// The run states of a domain's vCPUs.
#[derive(Debug)]
pub(crate) struct Runstates {
    vcpus: Vec<Mutex<State>>,
    update_flag: AtomicBool,
}

#[derive(Debug)]
struct State {
    info: VcpuRunstateInfo,
    area: Option<Area>,
}

impl Runstates {
    pub(crate) fn new(vcpus: u32) -> Self {
        let info = VcpuRunstateInfo {
            state: RUNSTATE_offline,
            pad: 0,
            state_entry_time: 0,
            time: [0; 4],
        };
        let vcpus = (0..vcpus)
            .map(|_| Mutex::new(State { info, area: None }))
            .collect();
        Self {
            vcpus,
            update_flag: AtomicBool::new(false),
        }
    }

    fn with<R>(&self, vcpu: VcpuId, f: impl FnOnce(&mut State) -> R) -> Option<R> {
        let state = self.vcpus.get(usize::try_from(vcpu.0).ok()?)?;
        Some(f(&mut state.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Translates a guest-virtual area of `len` bytes, no longer than a page.
    pub(crate) fn area(&self, caller: &Caller<'_>, gva: u64, len: usize) -> Result<Area, Errno> {
        let into = usize::try_from(gva % PAGE_SIZE as u64).map_err(|_| Errno::EFAULT)?;
        let first_len = len.min(PAGE_SIZE - into);
        let first = caller.translate(gva, true)?;
        let second = if first_len < len {
            caller.translate(
                gva.checked_add(first_len as u64).ok_or(Errno::EFAULT)?,
                true,
            )?
        } else {
            first
        };
        Ok(Area {
            first,
            first_len,
            second,
        })
    }

    pub(crate) fn register(&self, vcpu: VcpuId, area: Area) {
        self.with(vcpu, |state| state.area = Some(area));
    }

    pub(crate) fn set_update_flag(&self, on: bool) {
        self.update_flag.store(on, Ordering::Relaxed);
    }

    pub(crate) fn info(&self, vcpu: VcpuId) -> Option<VcpuRunstateInfo> {
        self.with(vcpu, |state| state.info)
    }

    fn publish(&self, vcpu: VcpuId, info: VcpuRunstateInfo, ram: &GuestRam) {
        self.with(vcpu, |state| {
            state.info = info;
            let Some(area) = state.area else { return };
            if self.update_flag.load(Ordering::Relaxed) {
                write(
                    ram,
                    &area,
                    &VcpuRunstateInfo {
                        state_entry_time: info.state_entry_time | XEN_RUNSTATE_UPDATE,
                        ..info
                    },
                );
            }
            write(ram, &area, &info);
        });
    }
}

/// A guest that moved or unmapped its area loses the figures, nothing else.
fn write(ram: &GuestRam, area: &Area, info: &VcpuRunstateInfo) {
    let (first, second) = info.as_bytes().split_at(area.first_len);
    let written = ram
        .write(area.first, first)
        .and_then(|()| ram.write(area.second, second));
    if written.is_err() {
        tracing::trace!("the run state area is no longer RAM");
    }
}

/// Measures one vCPU; lives in its thread.
#[derive(Debug)]
pub(crate) struct Meter {
    vcpu: VcpuId,
    schedstat: Option<File>,
    began: Instant,
    last: Option<Instant>,
}

impl Meter {
    /// Begins to measure the calling thread.
    pub(crate) fn start(vcpu: VcpuId) -> Self {
        // A kernel without schedstat shows no stolen time; CPU time is had by a clock then.
        let schedstat = File::open("/proc/thread-self/schedstat").ok();
        Self {
            vcpu,
            schedstat,
            began: Instant::now(),
            last: None,
        }
    }

    /// Brings the run state up to date, if it is old. To be called by the measured thread.
    pub(crate) fn refresh(
        &mut self,
        states: &Runstates,
        ram: &GuestRam,
        system_time_ns: impl FnOnce() -> u64,
    ) {
        let now = Instant::now();
        if self
            .last
            .is_some_and(|last| now.duration_since(last) < REFRESH)
        {
            return;
        }
        self.last = Some(now);
        let (on_cpu, queued) = self.scheduled();
        let total = u64::try_from(now.duration_since(self.began).as_nanos()).unwrap_or(u64::MAX);
        let mut info = VcpuRunstateInfo {
            state: RUNSTATE_running,
            pad: 0,
            state_entry_time: system_time_ns(),
            time: [0; 4],
        };
        let times = [
            (RUNSTATE_running, on_cpu),
            (RUNSTATE_runnable, queued),
            (
                RUNSTATE_blocked,
                total.saturating_sub(on_cpu).saturating_sub(queued),
            ),
        ];
        for (state, time) in times {
            if let Some(slot) = usize::try_from(state)
                .ok()
                .and_then(|s| info.time.get_mut(s))
            {
                *slot = time;
            }
        }
        states.publish(self.vcpu, info, ram);
    }

    /// Nanoseconds on a CPU and nanoseconds queued for one.
    fn scheduled(&self) -> (u64, u64) {
        let mut buf = [0; 96];
        let read = self
            .schedstat
            .as_ref()
            .and_then(|file| file.read_at(&mut buf, 0).ok());
        let text = read
            .and_then(|n| buf.get(..n))
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or("");
        let mut numbers = text.split_whitespace().map(|n| n.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}
