//! One end's own directory: its state, its keys, and what it says of its failures.

use std::fmt;
use std::sync::Arc;

use cantle_abi::Errno;
use cantle_abi::io::xenbus::XenbusState;

use super::{DeviceError, Keys};
use crate::prelude::*;
use crate::{Error, TxId};

/// The token of an end's watches.
const TOKEN: &str = "xenbus";
/// A failure's text is the other end's doing as much as ours, and is not to fill our quota.
const FAILURE_MAX: usize = 256;

/// Takes events of an end's client: at most so many at a time, whatever was queued.
const EVENTS_PER_CALL: u32 = 64;

/// An end's directory in the store.
pub(super) struct Nodes {
    pub(super) client: Arc<dyn Client>,
    /// The end's own directory.
    pub(super) path: String,
    watched: Vec<String>,
    failures: u32,
    /// A failure stands in the store.
    complained: bool,
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Nodes {
    pub(super) fn new(client: Arc<dyn Client>, path: String) -> Self {
        Self {
            client,
            path,
            watched: Vec::new(),
            failures: 0,
            complained: false,
        }
    }

    /// Watches these from now on, and what was watched before no longer.
    pub(super) fn watch(&mut self, paths: Vec<String>) -> Result<(), Error> {
        let before = core::mem::take(&mut self.watched);
        for path in &paths {
            if !before.contains(path) {
                self.client.watch(path, TOKEN)?;
            }
            self.watched.push(path.clone());
        }
        for path in before.iter().filter(|path| !paths.contains(path)) {
            // It may have gone with its connection.
            let _ = self.client.unwatch(path, TOKEN);
        }
        Ok(())
    }

    /// Takes events that wait. They only say "look again".
    pub(super) fn take_events(&self) {
        for _ in 0..EVENTS_PER_CALL {
            if self.client.take_event().is_none() {
                break;
            }
        }
    }

    /// A node's value. One that is hidden from us is as good as removed.
    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.client.read(TxId::NONE, path) {
            Ok(value) => Ok(Some(value)),
            Err(error) if matches!(error.errno, Errno::ENOENT | Errno::EACCES) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The state in a directory; `None` where there is no such node.
    pub(super) fn state(&self, directory: &str) -> Result<Option<XenbusState>, Error> {
        let text = self.read(&format!("{directory}/state"))?;
        Ok(text.map(|text| XenbusState::parse(&text)))
    }

    /// Whether the device is to stay, as the back end's directory says. Where it says nothing, it is.
    pub(super) fn online(&self, backend: &str) -> Result<bool, Error> {
        let text = self.read(&format!("{backend}/online"))?;
        Ok(text.is_none_or(|text| text != b"0"))
    }

    /// Writes keys and state at once; a directory that has been removed is not made again.
    pub(super) fn publish(&self, state: XenbusState, keys: &Keys) -> Result<(), Error> {
        let state_path = format!("{}/state", self.path);
        self.client.transact(|tx| {
            self.client.read(tx, &state_path)?;
            for (key, value) in keys {
                let path = format!("{}/{key}", self.path);
                self.client.write(tx, &path, value.as_bytes())?;
            }
            self.client
                .write(tx, &state_path, state.0.to_string().as_bytes())
        })
    }

    /// Says a failure in the log, and where tools look for it: `error/device/vbd/51712/error` in the end's own home. One that
    /// fails for ever is logged ever more rarely.
    pub(super) fn complain(&mut self, error: &DeviceError) {
        self.failures = self.failures.saturating_add(1);
        if self.failures.is_power_of_two() {
            tracing::warn!(device = %self.path, failures = self.failures, %error, "cannot connect");
        }
        let Some(path) = self.error_path() else {
            return;
        };
        let text = format!("{} {error}", Errno::EINVAL.0);
        let text: String = text.chars().take(FAILURE_MAX).collect();
        // It is for people; that it cannot be written changes nothing.
        let _ = self.client.write(TxId::NONE, &path, text.as_bytes());
        self.complained = true;
    }

    /// What was said last is true no longer.
    pub(super) fn withdraw_complaint(&mut self) {
        if core::mem::take(&mut self.complained)
            && let Some(path) = self.error_path()
        {
            let _ = self.client.rm_if_there(TxId::NONE, &path);
        }
    }

    fn error_path(&self) -> Option<String> {
        super::error_directory(&self.path).map(|path| format!("{path}/error"))
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for path in &self.watched {
            // The connection may be gone, and its watches with it.
            let _ = self.client.unwatch(path, TOKEN);
        }
    }
}
