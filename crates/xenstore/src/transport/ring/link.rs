//! A ring's connection with the server, and how it is replaced by a new one.

use cantle_abi::DomId;

use super::RingFault;
use crate::server::{Closed, ConnId, ConnKind, Server};
use crate::shared::Shared;

/// Puts a new connection in a ring's old one's place. The old one's requests, watches and transactions end; whatever comes
/// late for it (an answer of the host's, say) finds nobody.
///
/// The caller holds the lock and knows that the domain still is the one that it was: a ring never lasts beyond it.
pub(crate) fn renew(server: &mut Server, old: ConnId, domid: DomId) -> ConnId {
    // In this order, since a domain without connections may be forgotten, and with it what it was granted.
    let new = server.connect_as(ConnKind::Ring, domid, false);
    server.disconnect(old);
    new
}

/// One connection at a time. Dropping it ends that.
#[derive(Debug)]
pub(super) struct Link {
    store: Shared,
    /// `None` once it was given away.
    conn: Option<ConnId>,
    last: ConnId,
    domid: DomId,
}

impl Link {
    pub(super) fn new(store: Shared, conn: ConnId, domid: DomId) -> Self {
        Self {
            store,
            conn: Some(conn),
            last: conn,
            domid,
        }
    }

    pub(super) fn conn(&self) -> ConnId {
        self.last
    }

    pub(super) fn domid(&self) -> DomId {
        self.domid
    }

    /// Gives the connection away: it does not end with this.
    pub(super) fn into_conn(mut self) -> ConnId {
        self.conn = None;
        self.last
    }

    /// Does something with the server for this connection. Where it breaks the protocol, a new one takes its place at once,
    /// so that the end of the domain finds something to end.
    pub(super) fn with<R>(
        &mut self,
        act: impl FnOnce(&mut Server, ConnId) -> Result<R, RingFault>,
    ) -> Result<R, RingFault> {
        let (old, domid) = (self.last, self.domid);
        let (result, new) = self.store.with_except(Some(old), |server| {
            let result = act(server, old);
            let broken = matches!(result, Err(RingFault::Closed(Closed::Protocol(_))));
            (result, broken.then(|| renew(server, old, domid)))
        });
        if let Some(new) = new {
            self.replace(new);
        }
        result
    }

    /// Puts a new connection in this one's place; not where the server has ended this one.
    pub(super) fn renew(&mut self) -> bool {
        let (old, domid) = (self.last, self.domid);
        let new = self.store.with_except(Some(old), |server| {
            server.is_connected(old).then(|| renew(server, old, domid))
        });
        new.map(|new| self.replace(new)).is_some()
    }

    fn replace(&mut self, new: ConnId) {
        self.store.move_waker(self.last, new);
        self.last = new;
        self.conn = Some(new);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(conn) = self.conn {
            self.store.disconnect(conn);
        }
    }
}
