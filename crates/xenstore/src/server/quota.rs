//! Where requests and connections meet their domain's quotas.

use cantle_abi::Errno;

use super::connection::Connection;
use super::{ConnId, Server};
use crate::limits::Quota;
use crate::quota::{Hit, Quotas};
use crate::store::{Actor, Store};
use crate::wire::MESSAGE_MAX;

/// What a connection may fill before it is not listened to: a request that is not all there, replies (see
/// [`must_wait`](Server::must_wait)), and what is on its way out. It is charged for that from the beginning, whether it does or not.
fn buffers(reply_bytes: usize) -> i64 {
    i64::try_from(reply_bytes.saturating_add(3 * MESSAGE_MAX)).unwrap_or(i64::MAX)
}

impl Connection {
    /// What is kept for it: its buffers, watches, open transactions and unread events.
    pub(super) fn kept(&self, reply_bytes: usize) -> i64 {
        let events = i64::try_from(self.outbox.event_bytes()).unwrap_or(i64::MAX);
        buffers(reply_bytes)
            .saturating_add(self.watch_bytes)
            .saturating_add(self.transaction_bytes)
            .saturating_add(events)
    }
}

impl Server {
    /// Brings what is kept for a connection to its domain's account. Cheap where nothing has changed.
    pub(super) fn settle(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            settle(&mut self.quotas, connection);
        }
    }

    /// Asks for one more of something that is counted, and the bytes it takes.
    pub(super) fn claim(
        &mut self,
        actor: Actor,
        quota: Quota,
        number: u32,
        bytes: i64,
        path: &str,
    ) -> Result<(), Errno> {
        let owned = self.store.usage_of(actor.domid).bytes;
        self.quotas.ask(actor, path, |allowance| {
            allowance.allow(quota, number as usize)?;
            allowance.afford(actor.domid, None, Some(owned.saturating_add(bytes)))
        })
    }

    /// Whether no request of a connection is to be taken before it has read something. The bytes bind everybody, since a
    /// client that does not read must not make this process grow; the number of messages is a domain's quota.
    pub(super) fn must_wait(&mut self, conn: ConnId) -> bool {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return false;
        };
        let unread = connection.outbox.unread_messages();
        if connection.outbox.reply_bytes() > self.quotas.defaults.reply_bytes {
            return true;
        }
        let actor = connection.actor;
        if actor.privileged || unread == 0 {
            connection.stalled = false;
            return false;
        }
        // One more could be taken only if its reply were within the quota.
        let limits = self.quotas.limits_of(actor.domid);
        let waits = !limits.allows(Quota::Outstanding, unread as u64 + 1);
        let limit = limits.of(Quota::Outstanding);
        if waits && !core::mem::replace(&mut connection.stalled, true) {
            let hit = Hit {
                domid: actor.domid,
                quota: Quota::Outstanding,
                limit,
            };
            self.quotas.refuse(hit, "");
        } else if !waits {
            connection.stalled = false;
        }
        waits
    }
}

/// As [`Server::settle`].
pub(super) fn settle(quotas: &mut Quotas, connection: &mut Connection) {
    let kept = connection.kept(quotas.defaults.reply_bytes);
    let more = kept - connection.settled;
    if more != 0 {
        connection.settled = kept;
        quotas.budget(connection.actor.domid).keep(more);
    }
}

/// How many bytes of events may wait on a connection: within its own bound, and within what its domain's memory has
/// left. An event beyond it is condensed, and has been paid for by its watch.
pub(super) fn event_room(quotas: &Quotas, store: &Store, connection: &Connection) -> usize {
    let most = quotas.defaults.event_bytes;
    let actor = connection.actor;
    if actor.privileged {
        return most;
    }
    let budget = quotas.budgets.get(&actor.domid);
    let limits = budget.map_or(&quotas.defaults, |budget| &budget.limits);
    if limits.memory == 0 {
        return most;
    }
    let kept = budget.map_or(0, |budget| budget.kept);
    let owned = u64::try_from(store.usage_of(actor.domid).bytes).unwrap_or(0);
    let left = u64::from(limits.memory).saturating_sub(kept.saturating_add(owned));
    let waiting = connection.outbox.event_bytes();
    most.min(waiting.saturating_add(usize::try_from(left).unwrap_or(usize::MAX)))
}
