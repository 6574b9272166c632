//! A guest's network interfaces: one that is served has a back end and a thread, and comes and goes while the guest runs.
//!
//! [`Nets`] has them all, for whoever attaches and detaches them; [`NetWatch`] does what is said of them in the store.

mod config;
mod keys;
mod net;
mod open;
mod switches;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use cantle_abi::DomId;
use cantle_netback::Backend;
use cantle_xenstore::xenbus::{DeviceId, Removal, toolstack};
use vmm_sys_util::eventfd::EventFd;

pub use config::{MAX_NETS, NetConfig, NetIdentity, NetLink, OpenDevice};
pub use switches::{HostSwitch, SwitchConfig, SwitchSetupError, Uplink};
pub(crate) use watch::NetWatch;

use crate::devices::{Platform, chain};
use crate::error::{NetError, SetupError};
use crate::outcome::Stats;
use crate::running::join;
use net::{Leaving, Net, Serving};

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

#[cfg(test)]
mod tests;
