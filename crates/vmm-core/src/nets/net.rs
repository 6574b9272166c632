//! One interface: its thread, its counters, its way out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cantle_netback::{Backend, NetControl};
use cantle_xenstore::xenbus::{DeviceId, Removal, Removed};
use vmm_sys_util::eventfd::EventFd;

use super::keys::Said;
use super::open::Opened;
use crate::devices::{chain, named};
use crate::error::SetupError;

/// An interface.
pub(super) struct Net {
    pub(super) id: DeviceId,
    pub(super) control: NetControl,
    pub(super) stats: Arc<cantle_netback::Stats>,
    pub(super) opened: Arc<Opened>,
    /// What its directory says.
    pub(super) said: Said,
    pub(super) serving: Serving,
    pub(super) leaving: Option<Leaving>,
}

pub(super) enum Serving {
    /// Until the guest runs.
    Not(Box<Backend>),
    By(JoinHandle<()>),
    Failed,
}

/// An interface on its way out.
pub(super) struct Leaving {
    pub(super) removal: Removal,
    pub(super) since: Instant,
}

impl Net {
    /// Starts its thread, which serves it until the machine's end, or its own.
    pub(super) fn start(&mut self, index: u32, stop: &EventFd) -> Result<(), SetupError> {
        let Serving::Not(mut backend) = std::mem::replace(&mut self.serving, Serving::Failed)
        else {
            return Ok(());
        };
        let failed = |error| SetupError::host("a device's thread")(error);
        let stop = stop.try_clone().map_err(failed)?;
        let opened = self.opened.clone();
        let thread = std::thread::Builder::new()
            .name(format!("vif{index}"))
            .spawn(move || {
                if let Err(error) = backend.run(&stop) {
                    let error = chain(&error);
                    tracing::error!(index, error, "an interface's back end gave up");
                }
                // What it was connected to is closed after it.
                drop((backend, opened));
            })
            .map_err(failed)?;
        self.serving = Serving::By(thread);
        Ok(())
    }

    pub(super) fn counters(&self) -> BTreeMap<String, u64> {
        let (tx, rx) = (self.stats.tx.counts(), self.stats.rx.counts());
        let mut counters = named(&[
            ("tx_packets", tx.packets),
            ("tx_bytes", tx.bytes),
            ("tx_dropped", tx.dropped),
            ("tx_errors", tx.errors),
            ("rx_packets", rx.packets),
            ("rx_bytes", rx.bytes),
            ("rx_dropped", rx.dropped),
            ("rx_errors", rx.errors),
            ("rx_stalls", self.stats.stalls()),
        ]);
        counters.extend(self.opened.counters());
        counters
    }

    /// Sees how its removal is; true when it is gone.
    pub(super) fn has_left(&mut self, patience: Duration) -> bool {
        let Some(leaving) = &mut self.leaving else {
            return false;
        };
        let outcome = match leaving.since.elapsed() >= patience {
            true => leaving.removal.force(),
            false => leaving.removal.process(),
        };
        match outcome {
            Ok(Removed::NotYet) => false,
            Ok(Removed::Orderly) => true,
            Ok(Removed::Forced) => {
                tracing::warn!(interface = %self.id.backend_path(), "taken away by force");
                true
            }
            Err(error) => {
                tracing::warn!(%error, "an interface cannot be taken away");
                false
            }
        }
    }
}
