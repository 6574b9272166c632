//! Setting and dropping watches.

use std::sync::Arc;

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::{
    XENSTORE_ABS_PATH_MAX, XENSTORE_PAYLOAD_MAX, XENSTORE_SERVER_FEATURE_WATCHDEPTH,
};

use super::{Reply, number};
use crate::Quota;
use crate::path::{Resolved, components, resolve, special};
use crate::server::connection::Connection;
use crate::server::watches::Watch;
use crate::server::{ConnId, Server};
use crate::wire::{string_and_rest, strings_and_rest};

/// The longest token of a watch: an event with the longest path and this token still fits in a message.
pub(in crate::server) const TOKEN_MAX: usize = XENSTORE_PAYLOAD_MAX - XENSTORE_ABS_PATH_MAX - 2;

impl Server {
    /// `<wpath>|<token>|[<depth>|]?`
    pub(super) fn watch(&mut self, conn: ConnId, payload: &[u8]) -> Result<Reply, Errno> {
        let ([given, token], rest) = strings_and_rest(payload)?;
        let connection = self.connections.get(&conn).ok_or(Errno::EIO)?;
        let actor = connection.actor;
        let with_depth = self.features(actor.domid) & XENSTORE_SERVER_FEATURE_WATCHDEPTH != 0;
        let depth = if rest.contains(&0) {
            let (depth, reserved) = string_and_rest(rest)?;
            if !with_depth || reserved.contains(&0) {
                return Err(Errno::EINVAL);
            }
            // No path has as many levels as that.
            Some(u16::try_from(number(depth)?).unwrap_or(u16::MAX))
        } else {
            None
        };
        let (path, relative) = watchable(connection, given)?;
        // To be told of one domain's events only came with the same feature.
        if path.starts_with('@') && path.contains('/') && !with_depth {
            return Err(Errno::EINVAL);
        }
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
        let watch = Arc::new(Watch {
            id: self.next_watch,
            conn,
            path,
            token: token.into(),
            hidden,
            depth,
        });
        let watches = self.quotas.budget(actor.domid).watches + 1;
        self.claim(actor, Quota::Watches, watches, watch.bytes(), &watch.path)?;
        self.quotas.budget(actor.domid).watches = watches;
        self.next_watch += 1;
        self.watches.insert(Arc::clone(&watch));
        let connection = self.connection(conn)?;
        connection.watch_bytes += watch.bytes();
        connection.watches.insert(key, Arc::clone(&watch));
        self.note_watch(&watch);
        Ok(Reply::Watching(watch))
    }

    /// `<wpath>|<token>|?`
    pub(super) fn unwatch(&mut self, conn: ConnId, payload: &[u8]) -> Result<Reply, Errno> {
        let ([given, token], reserved) = strings_and_rest(payload)?;
        if reserved.contains(&0) {
            return Err(Errno::EINVAL);
        }
        self.unwatch_given(conn, given, token)?;
        Ok(Reply::Done)
    }

    /// Drops the watch with a path as it was given and a token.
    pub(in crate::server) fn unwatch_given(
        &mut self,
        conn: ConnId,
        given: &[u8],
        token: &[u8],
    ) -> Result<(), Errno> {
        let connection = self.connection(conn)?;
        let (path, _) = watchable(connection, given)?;
        let watch = connection
            .watches
            .remove(&(path, Box::from(token)))
            .ok_or(Errno::ENOENT)?;
        connection.outbox.purge(|id| id == watch.id);
        connection.watch_bytes -= watch.bytes();
        let domid = connection.actor.domid;
        self.watches.remove(&watch);
        self.quotas.budget(domid).drop_watches(1);
        self.note_unwatch(&watch);
        Ok(())
    }

    /// Drops the caller's watches and transactions, as a kernel wants that was started by another.
    pub(super) fn reset_watches(&mut self, conn: ConnId) -> Result<Reply, Errno> {
        self.drop_watches(conn);
        self.forget_patience(conn);
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
        connection.outbox.purge(|_| true);
        for watch in watches.values() {
            self.watches.remove(watch);
        }
        self.quotas.budget(domid).drop_watches(watches.len());
        if !watches.is_empty() {
            self.note_no_watches(conn);
        }
    }
}

/// The absolute path or special name that is to be watched, and whether it was given relative. A special name may be any; most
/// have no events.
fn watchable(connection: &Connection, given: &[u8]) -> Result<(Arc<str>, bool), Errno> {
    if let Some(name) = special(given)? {
        return Ok((name.into(), false));
    }
    let Resolved { path, relative } = resolve(given, &connection.home)?;
    Ok((path.into(), relative))
}
