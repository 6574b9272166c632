//! What a toolstack says of a disk while the guest runs: another medium, a larger size, other limits, that it may go on.
//!
//! It is said in the back end's own directory, where only the host may write. `params` and `mode` are Xen's own keys. `control` is
//! ours: `resume`, `resize SECTORS` (of 512 bytes), `limits KEY=NUMBER,…`, and what moves a disk to another image while it is used
//! ([`motion`]): `mirror FORMAT PATH [BYTES-PER-SECOND]`, `mirror-cancel`, `snapshot PATH`. It is removed when it is done, and `control-error` says why one was
//! not. A disk that has stopped for an error says so in `stopped`.

mod motion;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use cantle_blkback::DiskControl;
use cantle_disk::{DiskError, DiskSpec, ImageLock, OpenDisk, parse_limits};
use cantle_image::Disk;
use cantle_xenstore::prelude::*;
use cantle_xenstore::{Client, TxId};
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use crate::devices::chain;
use crate::error::SetupError;
use crate::services::add;
use crate::ticks;
use motion::Motion;

/// The token of the watches.
const TOKEN: &str = "disks";
/// The store has an event; every other number but the next is a disk's that has stopped.
const STORE: u32 = u32::MAX;
/// It is time to see how far the mirrors are.
const TICK: u32 = u32::MAX - 1;
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
    ticks: OwnedFd,
}

struct Watched {
    served: Served,
    /// What is in it now; `None`: nothing.
    medium: Option<Arc<OpenDisk>>,
    params: String,
    mode: String,
    /// On its way to another image.
    motion: Option<Motion>,
    /// Of the images below, since there were snapshots.
    below: Vec<ImageLock>,
}

impl Disks {
    pub(crate) fn new(client: Arc<dyn Client>, disks: Vec<Served>) -> Result<Self, SetupError> {
        let mut watched = Vec::new();
        for served in disks {
            for key in ["params", "mode", "control"] {
                client
                    .watch(&format!("{}/{key}", served.directory), TOKEN)
                    .map_err(SetupError::host("xenstore"))?;
            }
            watched.push(Watched {
                params: served.spec.path.display().to_string(),
                mode: mode(served.spec.read_only).to_owned(),
                medium: Some(Arc::clone(&served.opened)),
                motion: None,
                below: Vec::new(),
                served,
            });
        }
        Ok(Self {
            client,
            disks: watched,
            ticks: ticks::ticks().map_err(SetupError::host("a timer"))?,
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
        self.set_ticks();
    }

    /// Sees how far the disks are that are on their way to another image.
    fn tick(&mut self) {
        ticks::take_tick(&self.ticks);
        for disk in &mut self.disks {
            if let Err(error) = disk.look_at_mirror(&*self.client) {
                tracing::debug!(%error, "how far a mirror is cannot be written");
            }
        }
        self.set_ticks();
    }

    /// Comes back in a while where a disk is on its way, and else not.
    fn set_ticks(&self) {
        let moving = self.disks.iter().any(|disk| disk.motion.is_some());
        if let Err(error) = ticks::set_ticks(&self.ticks, moving) {
            tracing::error!(%error, "a timer cannot be set");
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
    fn change_medium(&mut self, params: &str, mode: &str) -> Result<(), String> {
        // A copy of what is taken out is of no use.
        self.motion = None;
        if params.is_empty() {
            if !self.served.changes_media {
                return Err("the disk is not removable".to_owned());
            }
            drop(self.served.control.eject());
            self.medium = None;
            return Ok(());
        }
        let spec = DiskSpec {
            path: PathBuf::from(params),
            read_only: self.served.spec.read_only && mode != "w" || mode == "r",
            ..self.served.spec.clone()
        };
        // The old one's lock would be in the way of the same file's other mode.
        let old = self.medium.take();
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
                drop(self.served.control.insert(Arc::clone(opened.disk())));
                self.medium = Some(opened);
                Ok(())
            }
            Err(error) => {
                self.medium = old;
                Err(chain(&error))
            }
        }
    }

    fn order(&mut self, order: &str) -> Result<(), String> {
        let (word, rest) = order.split_once(' ').unwrap_or((order, ""));
        let opened = self.medium.as_ref().ok_or("there is no medium");
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
            "mirror" => self.begin_mirror(rest)?,
            "mirror-cancel" => self.cancel_mirror()?,
            "snapshot" => self.snapshot(rest)?,
            _ => {
                return Err(format!(
                    "{word:?} is not resume, resize, limits, mirror, mirror-cancel or snapshot"
                ));
            }
        }
        Ok(())
    }
}

impl MutEventSubscriber for Disks {
    fn process(&mut self, events: Events, _: &mut EventOps<'_>) {
        match events.data() {
            STORE => self.look(),
            TICK => self.tick(),
            index => self.say_stopped(index),
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        add(ops, self.client.event_fd().as_raw_fd(), STORE);
        add(ops, self.ticks.as_raw_fd(), TICK);
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
