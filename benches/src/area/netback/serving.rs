//! A back end on a thread whose CPU time can be read.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use cantle_netback::Backend;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::cpu_clock::CpuClock;

/// A back end that is served until this is dropped.
pub(super) struct Serving {
    stop: EventFd,
    clock: CpuClock,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    pub(super) fn start(mut backend: Backend) -> Result<Self> {
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        let told = stop.try_clone()?;
        let (tell, hear) = mpsc::channel();
        // By this name a profiler tells it from the front end and the limit.
        let thread = std::thread::Builder::new()
            .name("back end".to_owned())
            .spawn(move || {
                // Nobody listens where the bench is gone already.
                let _ = tell.send(CpuClock::of_this_thread());
                backend.run(&told).expect("the back end runs");
            })?;
        Ok(Self {
            stop,
            clock: hear.recv().context("the back end's thread is gone")??,
            thread: Some(thread),
        })
    }

    /// The CPU time of the back end's thread; of the first queue's where there are several.
    pub(super) fn cpu_time(&self) -> Result<Duration> {
        self.clock.now()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let stopped = self.stop.write(1);
        if let Some(thread) = self.thread.take()
            && stopped.is_ok()
        {
            // A panic has been reported, and the row lacks its figures.
            let _ = thread.join();
        }
    }
}
