//! What a toolstack says of a disk while the guest runs: another medium, a larger size, other limits, that it may go on.
//!
//! It is said in the back end's own directory, where only the host may write. `params` and `mode` are Xen's own keys. `control` is
//! ours: `resume`, `resize SECTORS` (of 512 bytes), `limits KEY=NUMBER,…`; it is removed when it is done, and `control-error` says why one was
//! not. A disk that has stopped for an error says so in `stopped`.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use cantle_blkback::DiskControl;
use cantle_disk::{DiskError, DiskSpec, OpenDisk, parse_limits};
use cantle_image::Disk;
use cantle_xenstore::prelude::*;
use cantle_xenstore::{Client, TxId};
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use crate::devices::chain;
use crate::services::add;

/// The token of the watches.
const TOKEN: &str = "disks";
/// The store has an event; every other number is a disk's that has stopped.
const STORE: u32 = u32::MAX;
/// Events taken at a time.
const EVENTS_PER_CALL: usize = 64;

/// A disk that is served: its image, and what may be said to its back end.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) control: DiskControl,
    /// The medium that was there first. It stays open.
    pub(crate) opened: Arc<OpenDisk>,
    pub(crate) spec: DiskSpec,
    /// The back end's.
    pub(crate) directory: String,
    /// Whether its medium may be taken out.
    pub(crate) changes_media: bool,
}

/// Watches the directories of all disks.
pub(crate) struct Disks {
    client: Arc<dyn Client>,
    disks: Vec<Watched>,
}

struct Watched {
    served: Served,
    /// What is in it now; `None`: nothing.
    medium: Mutex<Option<Arc<OpenDisk>>>,
    params: String,
    mode: String,
}

impl Disks {
    pub(crate) fn new(
        client: Arc<dyn Client>,
        disks: Vec<Served>,
    ) -> Result<Self, cantle_xenstore::Error> {
        let mut watched = Vec::new();
        for served in disks {
            for key in ["params", "mode", "control"] {
                client.watch(&format!("{}/{key}", served.directory), TOKEN)?;
            }
            watched.push(Watched {
                params: served.spec.path.display().to_string(),
                mode: mode(served.spec.read_only).to_owned(),
                medium: Mutex::new(Some(Arc::clone(&served.opened))),
                served,
            });
        }
        Ok(Self {
            client,
            disks: watched,
        })
    }

    /// Looks at what is said of each disk.
    fn look(&mut self) {
        for _ in 0..EVENTS_PER_CALL {
            if self.client.take_event().is_none() {
                break;
            }
        }
        for disk in &mut self.disks {
            if let Err(error) = disk.obey(&*self.client) {
                tracing::warn!(disk = disk.served.directory, %error, "what was said of a disk cannot be read");
            }
        }
    }

    fn say_stopped(&self, index: u32) {
        let disk = usize::try_from(index).ok().and_then(|n| self.disks.get(n));
        let Some(disk) = disk else { return };
        let stopped = disk.served.control.is_stopped();
        let path = format!("{}/stopped", disk.served.directory);
        let said = match stopped {
            true => self.client.write(TxId::NONE, &path, b"1"),
            false => self.client.rm_if_there(TxId::NONE, &path).map(drop),
        };
        if let Err(error) = said {
            tracing::debug!(%error, "a disk's state cannot be written");
        }
    }
}

fn mode(read_only: bool) -> &'static str {
    if read_only { "r" } else { "w" }
}

impl Watched {
    fn obey(&mut self, client: &dyn Client) -> Result<(), cantle_xenstore::Error> {
        let directory = &self.served.directory;
        let read = |key: &str| match client.read_string(TxId::NONE, &format!("{directory}/{key}")) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        };
        let control = read("control")?;
        let (params, mode) = (read("params")?, read("mode")?);
        let (Some(params), Some(mode)) = (params, mode) else {
            // The directory goes.
            return Ok(());
        };
        let mut outcome = Ok(());
        if params != self.params || mode != self.mode {
            outcome = self.change_medium(&params, &mode);
            (self.params, self.mode) = (params, mode);
        }
        if let Some(order) = &control {
            outcome = self.order(order);
        }
        let directory = &self.served.directory;
        let path = format!("{directory}/control-error");
        match outcome {
            Ok(()) => {
                client.rm_if_there(TxId::NONE, &path)?;
            }
            Err(why) => {
                tracing::warn!(
                    disk = directory,
                    why,
                    "what was said of a disk was not done"
                );
                client.write(TxId::NONE, &path, why.as_bytes())?;
            }
        }
        if control.is_some() {
            client.rm_if_there(TxId::NONE, &format!("{directory}/control"))?;
        }
        Ok(())
    }

    /// Another image in the old one's place, or none.
    fn change_medium(&self, params: &str, mode: &str) -> Result<(), String> {
        let mut medium = self.medium.lock().unwrap_or_else(PoisonError::into_inner);
        if params.is_empty() {
            if !self.served.changes_media {
                return Err("the disk is not removable".to_owned());
            }
            self.served.control.eject();
            *medium = None;
            return Ok(());
        }
        let spec = DiskSpec {
            path: PathBuf::from(params),
            read_only: self.served.spec.read_only && mode != "w" || mode == "r",
            ..self.served.spec.clone()
        };
        // The old one's lock would be in the way of the same file's other mode.
        let old = medium.take();
        let opened = match cantle_disk::open(&spec) {
            Err(DiskError::Locked { .. })
                if old.is_some() && spec.path == self.served.spec.path =>
            {
                let unlocked = DiskSpec {
                    lock: false,
                    ..spec
                };
                cantle_disk::open(&unlocked)
            }
            opened => opened,
        };
        match opened {
            Ok(opened) => {
                let opened = Arc::new(opened);
                self.served.control.insert(Arc::clone(opened.disk()));
                *medium = Some(opened);
                Ok(())
            }
            Err(error) => {
                *medium = old;
                Err(chain(&error))
            }
        }
    }

    fn order(&self, order: &str) -> Result<(), String> {
        let (word, rest) = order.split_once(' ').unwrap_or((order, ""));
        let medium = self.medium.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = medium.as_ref().ok_or("there is no medium");
        match word {
            "resume" => self.served.control.resume(),
            "resize" => {
                let sectors = rest
                    .trim()
                    .parse()
                    .map_err(|_| format!("{rest:?} is no number of sectors"))?;
                let opened = opened?;
                opened.grow(sectors).map_err(|error| chain(&error))?;
                self.served.control.resized();
                tracing::info!(
                    sectors = opened.disk().geometry().sectors,
                    "a disk has grown"
                );
            }
            "limits" => {
                let limits = parse_limits(rest).map_err(|error| error.to_string())?;
                let throttle = opened?.throttle();
                throttle
                    .ok_or("the disk was started without limits")?
                    .set(limits);
            }
            _ => return Err(format!("{word:?} is not resume, resize or limits")),
        }
        Ok(())
    }
}

impl MutEventSubscriber for Disks {
    fn process(&mut self, events: Events, _: &mut EventOps<'_>) {
        match events.data() {
            STORE => self.look(),
            index => self.say_stopped(index),
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        add(ops, self.client.event_fd().as_raw_fd(), STORE);
        for (index, disk) in (0_u32..).zip(&self.disks) {
            let fd = disk.served.control.stopped_event().as_raw_fd();
            // It stays readable for as long as the disk is stopped.
            let set = EventSet::IN | EventSet::EDGE_TRIGGERED;
            if let Err(error) = ops.add(Events::with_data_raw(fd, index, set)) {
                tracing::error!(?error, "a disk's stops cannot be waited for");
            }
        }
    }
}

#[cfg(test)]
mod tests;
