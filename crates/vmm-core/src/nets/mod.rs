//! A guest's network interfaces: one that is served has a back end and a thread, and comes and goes while the guest runs.
//!
//! [`Nets`] has them all, for whoever attaches and detaches them; [`NetWatch`] does what is said of them in the store.

mod config;
mod keys;
mod open;
mod switches;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use cantle_abi::DomId;
use cantle_netback::{Backend, NetControl};
use cantle_xenstore::xenbus::{DeviceId, Removal, Removed, toolstack};
use vmm_sys_util::eventfd::EventFd;

pub use config::{MAX_NETS, NetConfig, NetIdentity, NetLink, OpenDevice};
pub use switches::{HostSwitch, SwitchConfig, SwitchSetupError, Uplink};
pub(crate) use watch::NetWatch;

use crate::devices::{Platform, chain, named};
use crate::error::{NetError, SetupError};
use crate::outcome::Stats;
use crate::running::join;
use keys::Said;
use open::Opened;

/// Makes a configuration of a text: the language of whoever runs the machine.
pub type ReadNet = dyn Fn(&str) -> Result<NetConfig, String> + Send + Sync;

/// A guest's interfaces.
pub(crate) struct Nets {
    platform: Platform,
    /// The machine's end.
    stop: EventFd,
    /// Interfaces came, or are to go: [`NetWatch`] is to look.
    changed: EventFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stage: Stage,
    nets: BTreeMap<u32, Net>,
    /// Threads of interfaces that are gone.
    threads: Vec<JoinHandle<()>>,
    /// What interfaces counted that are gone, by their numbers.
    counted: BTreeMap<u32, BTreeMap<String, u64>>,
    read: Option<Arc<ReadNet>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// The guest does not run yet.
    #[default]
    SetUp,
    Running,
    Ended,
}

/// An interface.
struct Net {
    id: DeviceId,
    control: NetControl,
    stats: Arc<cantle_netback::Stats>,
    opened: Arc<Opened>,
    /// What its directory says.
    said: Said,
    serving: Serving,
    leaving: Option<Leaving>,
}

enum Serving {
    /// Until the guest runs.
    Not(Box<Backend>),
    By(JoinHandle<()>),
    Failed,
}

/// An interface on its way out.
struct Leaving {
    removal: Removal,
    since: Instant,
}

impl fmt::Debug for Nets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nets").finish_non_exhaustive()
    }
}

impl Nets {
    /// Opens what the interfaces need and writes them into xenstore.
    pub(crate) fn new(
        platform: Platform,
        stop: &EventFd,
        configs: &[NetConfig],
    ) -> Result<Self, SetupError> {
        let event = SetupError::host("an event descriptor");
        let nets = Self {
            platform,
            stop: stop.try_clone().map_err(event)?,
            changed: crate::services::event()?,
            state: Mutex::default(),
        };
        for config in configs {
            nets.attach(config)?;
        }
        Ok(nets)
    }

    /// The language of [`NetWatch`]'s orders.
    pub(crate) fn read_with(&self, read: Arc<ReadNet>) {
        self.lock().read = Some(read);
    }

    /// Makes an interface, with the lowest number that is free.
    pub(crate) fn attach(&self, config: &NetConfig) -> Result<u32, SetupError> {
        let mut state = self.lock();
        if state.stage == Stage::Ended {
            return Err(NetError::Ended.into());
        }
        if state.nets.len() >= MAX_NETS {
            return Err(NetError::TooMany.into());
        }
        let index = (0..)
            .find(|index| !state.nets.contains_key(index))
            .ok_or(NetError::TooMany)?;
        let id = DeviceId::new("vif", index, self.platform.guest, DomId::DOM0);
        let made = self.create(config, id.clone()).and_then(|mut net| {
            if state.stage == Stage::Running {
                net.start(index, &self.stop)?;
            }
            Ok(net)
        });
        let net = made.inspect_err(|_| self.withdraw(&id))?;
        state.nets.insert(index, net);
        drop(state);
        self.wake();
        Ok(index)
    }

    /// Asks for an interface's removal. It goes when the guest has let go of it, or by force after
    /// [`PATIENCE`](watch::PATIENCE).
    pub(crate) fn detach(&self, index: u32) -> Result<(), NetError> {
        let mut state = self.lock();
        let net = state.nets.get_mut(&index).ok_or(NetError::Unknown(index))?;
        if net.leaving.is_none() {
            let client = self
                .platform
                .client()
                .map_err(|e| NetError::Store(chain(&e)))?;
            let removal = Removal::begin(Arc::new(client), net.id.clone())
                .map_err(|e| NetError::Store(chain(&e)))?;
            net.leaving = Some(Leaving {
                removal,
                since: Instant::now(),
            });
        }
        drop(state);
        self.wake();
        Ok(())
    }

    /// The guest is about to run: each interface gets its thread.
    pub(crate) fn start(&self) -> Result<(), SetupError> {
        let mut state = self.lock();
        state.stage = Stage::Running;
        for (index, net) in &mut state.nets {
            net.start(*index, &self.stop)?;
        }
        Ok(())
    }

    /// The guest has ended, and `stop` is readable: waits for all threads. Nothing comes any more.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.stage = Stage::Ended;
        state.read = None;
        for (index, net) in std::mem::take(&mut state.nets) {
            state.retire(index, net);
        }
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        threads
            .into_iter()
            .for_each(|thread| join("an interface", thread));
    }

    /// Adds all interfaces' counters to the machine's.
    pub(crate) fn count(&self, stats: &mut Stats) {
        let counted = std::mem::take(&mut self.lock().counted);
        stats.nets = counted
            .into_iter()
            .map(|(index, counters)| (index.to_string(), counters))
            .collect();
    }

    /// Takes back what the guest may have seen of an interface that cannot be.
    fn withdraw(&self, id: &DeviceId) {
        let withdrawn = self.platform.client().and_then(|client| {
            toolstack::destroy_device(&client, id).map_err(SetupError::host("xenstore"))
        });
        if let Err(error) = withdrawn {
            tracing::warn!(interface = %id.backend_path(), %error, "cannot be taken out of xenstore");
        }
    }

    fn create(&self, config: &NetConfig, id: DeviceId) -> Result<Net, SetupError> {
        config.check()?;
        let refuse = |why| SetupError::Net {
            name: config.link.to_string(),
            why,
        };
        let whose = self.platform.net_identity(config, id.number);
        let opened = Arc::new(open::open(config, &whose).map_err(refuse)?);
        let client = self.platform.client()?;
        let said = keys::create(&client, &id, config, &whose, &opened)
            .map_err(SetupError::host("xenstore"))?;
        let mut options = config.options;
        options.mtu = said.mtu();
        let backend = Backend::with_device(
            Arc::new(client),
            self.platform.channels(),
            self.platform.grants(),
            opened.device(),
            id.clone(),
            options,
        )
        .map_err(|e| refuse(chain(&e)))?;
        Ok(Net {
            control: backend.control(),
            stats: backend.stats(),
            serving: Serving::Not(Box::new(backend)),
            leaving: None,
            id,
            opened,
            said,
        })
    }

    fn wake(&self) {
        if let Err(error) = self.changed.write(1) {
            tracing::error!(%error, "nobody can be told of an interface");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// An interface is gone: its counters stay.
    fn retire(&mut self, index: u32, net: Net) {
        let counters = net.counters();
        if let Serving::By(thread) = net.serving {
            self.threads.push(thread);
        }
        let sum = self.counted.entry(index).or_default();
        for (name, count) in counters {
            let all = sum.entry(name).or_default();
            *all = all.saturating_add(count);
        }
        // Of those that came and went, only what still runs is kept.
        self.threads.retain(|thread| !thread.is_finished());
    }
}

impl Net {
    /// Starts its thread, which serves it until the machine's end, or its own.
    fn start(&mut self, index: u32, stop: &EventFd) -> Result<(), SetupError> {
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

    fn counters(&self) -> BTreeMap<String, u64> {
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
    fn has_left(&mut self, patience: std::time::Duration) -> bool {
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

#[cfg(test)]
mod tests;
