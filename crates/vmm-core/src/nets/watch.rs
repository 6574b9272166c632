//! What is said of interfaces while the guest runs: of each in its directory ([`keys`](super::keys)), and that there are to be more or fewer.
//!
//! The latter is said in [`CONTROL`], which only the host may write: `attach WORDS`, in the language of whoever runs the machine, and
//! `detach NUMBER`. It is removed when it is done; `attached` beside it has the number of the interface that came last, and
//! `control-error` says why something was not done.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use cantle_xenstore::prelude::*;
use cantle_xenstore::{Client, Error, TxId};
use event_manager::{EventOps, Events, MutEventSubscriber};

use super::{Nets, Stage, keys};
use crate::devices::chain;
use crate::error::SetupError;
use crate::services::add;
use crate::ticks::{self, set_ticks};

/// Where orders are given.
const CONTROL: &str = "/cantle/network";
/// How long a guest has to let go of an interface.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The token of the watches.
const TOKEN: &str = "nets";
const STORE: u32 = 0;
const CHANGED: u32 = 1;
const TICK: u32 = 2;
/// Events taken at a time.
const EVENTS_PER_CALL: usize = 64;

/// Watches what is said of a guest's interfaces.
pub(crate) struct NetWatch {
    nets: Arc<Nets>,
    client: Arc<dyn Client>,
    /// The interfaces' directories that are watched.
    watched: BTreeMap<u32, String>,
    ticks: OwnedFd,
}

impl NetWatch {
    pub(crate) fn new(nets: Arc<Nets>, client: Arc<dyn Client>) -> Result<Self, SetupError> {
        client
            .watch(&format!("{CONTROL}/control"), TOKEN)
            .map_err(SetupError::host("xenstore"))?;
        let mut watch = Self {
            nets,
            client,
            watched: BTreeMap::new(),
            ticks: ticks::ticks().map_err(SetupError::host("a timer"))?,
        };
        watch.follow().map_err(SetupError::host("xenstore"))?;
        Ok(watch)
    }

    /// Does all that is due. However much has happened, it is looked once at each interface.
    pub(super) fn look(&mut self) {
        for _ in 0..EVENTS_PER_CALL {
            if self.client.take_event().is_none() {
                break;
            }
        }
        if let Err(error) = self.obey_control() {
            tracing::warn!(%error, "what was said of the network cannot be read");
        }
        self.look_at_each();
        if let Err(error) = self.follow() {
            tracing::warn!(%error, "an interface cannot be watched");
        }
        let leaving = self
            .nets
            .lock()
            .nets
            .values()
            .any(|net| net.leaving.is_some());
        if let Err(error) = set_ticks(&self.ticks, leaving) {
            tracing::error!(%error, "a timer cannot be set");
        }
    }

    /// Whether the store has something to say; it is not heard again.
    #[cfg(test)]
    pub(super) fn has_event(&self) -> bool {
        self.client.take_event().is_some()
    }

    fn look_at_each(&self) {
        let mut state = self.nets.lock();
        if state.stage == Stage::Ended {
            return;
        }
        let mut gone = Vec::new();
        for (index, net) in &mut state.nets {
            let there = keys::obey(&*self.client, &net.id, &mut net.said, &net.control);
            match there {
                Ok(there) if net.has_left(PATIENCE) || !there => gone.push(*index),
                Ok(_) => {}
                Err(error) => {
                    let interface = net.id.backend_path();
                    tracing::warn!(interface, %error, "what was said of an interface cannot be read");
                }
            }
        }
        for index in gone {
            if let Some(net) = state.nets.remove(&index) {
                tracing::info!(index, "an interface is gone");
                state.retire(index, net);
            }
        }
    }

    /// Watches the interfaces that there are, and no others.
    fn follow(&mut self) -> Result<(), Error> {
        let now: BTreeMap<u32, String> = {
            let state = self.nets.lock();
            let nets = state.nets.iter();
            nets.map(|(index, net)| (*index, net.id.backend_path()))
                .collect()
        };
        // The last is never written again, and goes with its directory. Nothing that a guest can bring about is watched.
        let keys = keys::WATCHED.into_iter().chain(["handle"]);
        for (_, directory) in self
            .watched
            .iter()
            .filter(|(index, _)| !now.contains_key(index))
        {
            for key in keys.clone() {
                // It may have gone with its connection.
                let _ = self.client.unwatch(&format!("{directory}/{key}"), TOKEN);
            }
        }
        for (_, directory) in now
            .iter()
            .filter(|(index, _)| !self.watched.contains_key(index))
        {
            for key in keys.clone() {
                self.client.watch(&format!("{directory}/{key}"), TOKEN)?;
            }
        }
        self.watched = now;
        Ok(())
    }

    fn obey_control(&self) -> Result<(), Error> {
        let (order, error) = (
            format!("{CONTROL}/control"),
            format!("{CONTROL}/control-error"),
        );
        let text = match self.client.read_string(TxId::NONE, &order) {
            Ok(text) => text,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.order(&text) {
            Ok(None) => drop(self.client.rm_if_there(TxId::NONE, &error)?),
            Ok(Some(index)) => {
                self.client.rm_if_there(TxId::NONE, &error)?;
                let path = format!("{CONTROL}/attached");
                self.client
                    .write(TxId::NONE, &path, index.to_string().as_bytes())?;
            }
            Err(why) => {
                tracing::warn!(why, "what was said of the network was not done");
                self.client.write(TxId::NONE, &error, why.as_bytes())?;
            }
        }
        self.client.rm_if_there(TxId::NONE, &order)?;
        Ok(())
    }

    /// Does what is said; the number of what came.
    fn order(&self, text: &str) -> Result<Option<u32>, String> {
        match text.trim().split_once(' ') {
            Some(("attach", words)) => {
                let read = self.nets.lock().read.clone();
                let read = read.ok_or("nobody here knows how an interface is said")?;
                let config = read(words.trim())?;
                self.nets.attach(&config).map(Some).map_err(|e| chain(&e))
            }
            Some(("detach", number)) => {
                let index = number
                    .trim()
                    .parse()
                    .map_err(|_| format!("{number:?} is no interface's number"))?;
                self.nets.detach(index).map_err(|e| chain(&e))?;
                Ok(None)
            }
            _ => Err(format!("{text:?} is not attach WORDS or detach NUMBER")),
        }
    }
}

impl MutEventSubscriber for NetWatch {
    fn process(&mut self, events: Events, _: &mut EventOps<'_>) {
        match events.data() {
            CHANGED => drop(self.nets.changed.read()),
            TICK => ticks::take_tick(&self.ticks),
            _ => {}
        }
        self.look();
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        add(ops, self.client.event_fd().as_raw_fd(), STORE);
        add(ops, self.nets.changed.as_raw_fd(), CHANGED);
        add(ops, self.ticks.as_raw_fd(), TICK);
    }
}
