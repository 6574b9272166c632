//! Setting and dropping watches.

use std::sync::Arc;

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::{XENSTORE_ABS_PATH_MAX, XENSTORE_PAYLOAD_MAX};

use super::{Reply, special_name};
use crate::Quota;
use crate::path::{Resolved, components, resolve};
use crate::server::connection::Connection;
use crate::server::watches::Watch;
use crate::server::{ConnId, Server};
use crate::wire::strings;

/// The longest token of a watch: an event with the longest path and this token still fits in a message.
const TOKEN_MAX: usize = XENSTORE_PAYLOAD_MAX - XENSTORE_ABS_PATH_MAX - 2;

impl Server {
    pub(super) fn watch(&mut self, conn: ConnId, payload: &[u8]) -> Result<Reply, Errno> {
        let [given, token] = strings(payload)?;
        let connection = self.connections.get(&conn).ok_or(Errno::EIO)?;
        let actor = connection.actor;
        let (path, relative) = self.watchable(connection, given)?;
        if token.len() > TOKEN_MAX {
            return Err(Errno::E2BIG);
        }
        self.quotas.ask(actor, &path, |allowance| {
            allowance.allow(Quota::PathDepth, components(&path).count())
        })?;
        let hidden = if relative {
            connection.home.len() + 1
        } else {
            0
        };
        let key = (Arc::clone(&path), Box::from(token));
        if connection.watches.contains_key(&key) {
            return Err(Errno::EEXIST);
        }
        let watch = Arc::new(Watch::new(self.next_watch, conn, path, token, hidden));
        let watches = self.quotas.budget(actor.domid).watches + 1;
        self.claim(actor, Quota::Watches, watches, watch.bytes(), &watch.path)?;
        self.quotas.budget(actor.domid).watches = watches;
        self.next_watch += 1;
        self.watches.insert(Arc::clone(&watch));
        let connection = self.connection(conn)?;
        connection.watch_bytes += watch.bytes();
        connection.watches.insert(key, Arc::clone(&watch));
        Ok(Reply::Watching(watch))
    }

    /// The absolute path or special name that is to be watched, and whether it was given relative.
    fn watchable(&self, connection: &Connection, given: &[u8]) -> Result<(Arc<str>, bool), Errno> {
        if let Some(name) = special_name(given) {
            self.special.get(name).ok_or(Errno::EINVAL)?;
            return Ok((name.into(), false));
        }
        let Resolved { path, relative } = resolve(given, &connection.home)?;
        Ok((path.into(), relative))
    }

    pub(super) fn unwatch(&mut self, conn: ConnId, payload: &[u8]) -> Result<Reply, Errno> {
        let [given, token] = strings(payload)?;
        let connection = self.connections.get(&conn).ok_or(Errno::EIO)?;
        let (path, _) = self.watchable(connection, given)?;
        let connection = self.connection(conn)?;
        let watch = connection
            .watches
            .remove(&(path, Box::from(token)))
            .ok_or(Errno::ENOENT)?;
        connection.outbox.purge(&watch);
        connection.watch_bytes -= watch.bytes();
        let domid = connection.actor.domid;
        self.watches.remove(&watch);
        self.quotas.budget(domid).drop_watches(1);
        Ok(Reply::Done)
    }

    /// Drops the caller's watches and transactions, as a kernel wants that was started by another.
    pub(super) fn reset_watches(&mut self, conn: ConnId) -> Result<Reply, Errno> {
        self.drop_watches(conn);
        let connection = self.connection(conn)?;
        let open = core::mem::take(&mut connection.transactions).len();
        connection.transaction_bytes = 0;
        let domid = connection.actor.domid;
        self.quotas.budget(domid).close_transactions(open);
        Ok(Reply::Done)
    }

    pub(in crate::server) fn drop_watches(&mut self, conn: ConnId) {
        let Ok(connection) = self.connection(conn) else {
            return;
        };
        let watches = core::mem::take(&mut connection.watches);
        connection.watch_bytes = 0;
        let domid = connection.actor.domid;
        for watch in watches.values() {
            connection.outbox.purge(watch);
        }
        for watch in watches.values() {
            self.watches.remove(watch);
        }
        self.quotas.budget(domid).drop_watches(watches.len());
    }
}
