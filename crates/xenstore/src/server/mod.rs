//! The server: the protocol as a state machine, without I/O, threads or clock.
//!
//! Bytes of a connection go in by [`Server::feed`], bytes for it are found by [`Server::output`]; which connections have
//! something new is told by [`Server::take_ready`]. A client in the same process needs no bytes: [`Server::request`] and
//! [`Server::take_event`]. Whoever owns a server decides how bytes travel and when it runs; see
//! [`transport`](crate::transport) and [`Shared`](crate::Shared).

mod bytes;
mod clone;
mod conn_map;
mod connection;
mod control;
mod domains;
mod events;
mod features;
mod guest;
mod host;
mod load;
mod log;
mod outbox;
mod patience;
mod quota;
mod rebuild;
mod record;
mod requests;
mod save;
mod stats;
mod watches;

use std::collections::{HashMap, HashSet, VecDeque};

use cantle_abi::io::xs_wire::{XS_ERROR, XsType};
use cantle_abi::{DomId, Errno, Gfn, Port};

use crate::client::{TxId, WatchEvent};
use crate::limits::Limits;
use crate::quota::Quotas;
use crate::store::{Actor, Store};
use crate::wire::{self, Message, TooLong};
pub use bytes::Fed;
pub(crate) use conn_map::ConnMap;
use connection::Connection;
use domains::{Domain, SpecialPerms};
use log::{Log, Switch};
use outbox::Outbox;
use requests::Reply;
use watches::WatchIndex;

pub use crate::store::Subtree;
pub use connection::ConnKind;
pub use features::FEATURES;
pub use host::{HostCommand, Ticket};
pub use load::{RestoreError, Restored, RestoredConn, Wrong};
pub use save::{Checkpoint, Host, HostConn, SaveError};
pub use stats::DomainStats;

/// A connection's number. No number is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(u64);

/// What a privileged client asked for that the server cannot do itself.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// `XS_INTRODUCE`: the domain's xenstore page is at this frame, and it listens at this port. For a domain that has a ring
    /// already it is a reconnection: the ring's connection has been [reset](Server::reset), the page's indices are to be.
    Introduced {
        /// The domain.
        domid: DomId,
        /// The page.
        gfn: Gfn,
        /// The domain's port.
        port: Port,
    },
    /// `XS_RELEASE`: the domain is gone, and so are its connections.
    Released {
        /// The domain.
        domid: DomId,
    },
    /// `XS_CONTROL`: a command for the host, who gives the ticket back with the answer.
    Control {
        /// For [`Server::answer`].
        ticket: Ticket,
        /// What is to be done.
        command: HostCommand,
    },
}

/// Why a connection can be used no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Closed {
    /// There is no such connection, or not any more.
    #[error("no such connection")]
    Unknown,
    /// It broke the protocol, and was closed for it.
    #[error(transparent)]
    Protocol(#[from] TooLong),
}

/// A xenstore.
///
/// No call does more than its input makes necessary: a request costs what it names (and a removal what it removes),
/// and what a client does not read is bounded by [`Limits`].
#[derive(Debug)]
pub struct Server {
    store: Store,
    quotas: Quotas,
    log: Log,
    domains: HashMap<DomId, Domain>,
    /// Those that are privileged beside domain 0.
    privileged: HashSet<DomId>,
    connections: ConnMap<Connection>,
    watches: WatchIndex,
    special: SpecialPerms,
    ready: Vec<ConnId>,
    actions: VecDeque<Action>,
    next_conn: u64,
    next_watch: u64,
    /// Units of work done, ever: see [`Fed::work`].
    work: u64,
    patience: patience::Patience,
    /// What has changed, where somebody wants to know.
    recorder: Option<Box<record::Recorder>>,
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    /// A store with nothing in it but the usual directories, and the default [`Limits`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_limits(Limits::DEFAULT)
    }

    /// A store with limits of one's own.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            store: Store::new(),
            quotas: Quotas::new(limits),
            log: Log::default(),
            domains: HashMap::new(),
            privileged: HashSet::new(),
            connections: ConnMap::default(),
            watches: WatchIndex::default(),
            special: SpecialPerms::default(),
            ready: Vec::new(),
            actions: VecDeque::new(),
            next_conn: 1,
            next_watch: 1,
            patience: patience::Patience::default(),
            work: 0,
            recorder: None,
        }
    }

    /// A new connection of a domain from within this process. A privileged one is bound by no permission and no quota.
    pub fn connect(&mut self, domid: DomId, privileged: bool) -> ConnId {
        self.connect_as(ConnKind::InProcess, domid, privileged)
    }

    /// A new connection of the host by a Unix socket: it is domain 0's, and privileged.
    pub fn connect_socket(&mut self) -> ConnId {
        self.connect_as(ConnKind::Socket, DomId::DOM0, true)
    }

    /// A new connection of a kind. It is privileged where it is said here and where its domain is
    /// ([`set_privileged`](Self::set_privileged)), and has the rights of its domain's target, if that has one.
    pub fn connect_as(&mut self, kind: ConnKind, domid: DomId, privileged: bool) -> ConnId {
        let actor = Actor {
            domid,
            privileged: privileged || self.privileged.contains(&domid),
            target: self.domains.get(&domid).and_then(|domain| domain.target),
        };
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        self.connections.insert(id, Connection::new(kind, actor));
        let budget = self.quotas.budget(domid);
        budget.connections += 1;
        budget.exempt |= actor.privileged;
        self.settle(id);
        id
    }

    /// What a connection came in by; `None` for one that does not exist.
    #[must_use]
    pub fn kind(&self, conn: ConnId) -> Option<ConnKind> {
        self.connections
            .get(&conn)
            .map(|connection| connection.kind)
    }

    /// Whose connection it is; `None` for one that does not exist.
    #[must_use]
    pub fn domid(&self, conn: ConnId) -> Option<DomId> {
        self.connections
            .get(&conn)
            .map(|connection| connection.actor.domid)
    }

    /// Ends a connection: its transactions are aborted, its watches dropped. Ending it twice is harmless.
    pub fn disconnect(&mut self, conn: ConnId) {
        self.drop_watches(conn);
        self.forget_patience(conn);
        if let Some(connection) = self.connections.remove(&conn) {
            let open = connection.transactions.len();
            let domid = connection.actor.domid;
            let budget = self.quotas.budget(domid);
            budget.connections = budget.connections.saturating_sub(1);
            budget.close_transactions(open);
            budget.keep(-connection.settled);
            self.domain(domid).past.add(connection.counters);
            self.tidy(domid);
        }
    }

    /// Puts a connection back to its beginning: its transactions are aborted, its watches dropped, and what was half received
    /// or not yet sent is forgotten. A guest's ring that is reconnected begins so.
    pub fn reset(&mut self, conn: ConnId) {
        self.drop_watches(conn);
        self.forget_patience(conn);
        if let Some(connection) = self.connections.get_mut(&conn) {
            let open = core::mem::take(&mut connection.transactions).len();
            connection.partial = Vec::new();
            connection.transaction_bytes = 0;
            connection.outbox = Outbox::default();
            connection.stalled = false;
            let domid = connection.actor.domid;
            self.quotas.budget(domid).close_transactions(open);
            self.settle(conn);
        }
    }

    /// Whether a connection exists still.
    #[must_use]
    pub fn is_connected(&self, conn: ConnId) -> bool {
        self.connections.contains_key(&conn)
    }

    /// The bytes to be sent next on a connection, at least `wanted` where so many wait; empty for one that does not exist.
    pub fn output(&mut self, conn: ConnId, wanted: usize) -> &[u8] {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return &[];
        };
        connection.outbox.stage(wanted);
        self.settle(conn);
        self.connections
            .get(&conn)
            .map_or(&[], |connection| connection.outbox.staged())
    }

    /// `len` bytes of the output have been sent.
    pub fn consume_output(&mut self, conn: ConnId, len: usize) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.outbox.consume(len);
        }
    }

    /// Whether anything waits to be sent on a connection.
    #[must_use]
    pub fn has_output(&self, conn: ConnId) -> bool {
        self.connections
            .get(&conn)
            .is_some_and(|connection| !connection.outbox.is_empty())
    }

    /// The connections for which something was queued since the last call.
    pub fn take_ready(&mut self) -> Vec<ConnId> {
        let mut ready = Vec::new();
        self.swap_ready(&mut ready);
        ready
    }

    /// As [`take_ready`](Self::take_ready), into a list whose memory is used again.
    pub(crate) fn swap_ready(&mut self, list: &mut Vec<ConnId>) {
        list.clear();
        core::mem::swap(list, &mut self.ready);
        for conn in list {
            if let Some(connection) = self.connections.get_mut(conn) {
                connection.ready = false;
            }
        }
    }

    /// The oldest thing to be done for a privileged client.
    pub fn take_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Handles one request of a client in the same process and returns the reply's payload. Not to be mixed with
    /// [`feed`](Self::feed) on the same connection.
    ///
    /// # Errors
    ///
    /// The protocol's error; `EIO` where the connection is gone; `ENOSYS` for what only the host can answer.
    pub fn request(
        &mut self,
        conn: ConnId,
        op: XsType,
        tx: TxId,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let result = match self.execute(conn, op, tx, payload) {
            Ok(Reply::Later(_)) => Err(Errno::ENOSYS),
            result => result,
        };
        self.count(conn, op, tx, payload, &result);
        let reply = result?;
        let bytes = reply.bytes().to_vec();
        self.after(&reply);
        Ok(bytes)
    }

    /// The oldest watch event of a client in the same process.
    pub fn take_event(&mut self, conn: ConnId) -> Option<WatchEvent> {
        let event = self.connections.get_mut(&conn)?.outbox.take_event();
        self.settle(conn);
        event
    }

    fn handle(&mut self, conn: ConnId, message: &Message<'_>) {
        self.work = self.work.saturating_add(1);
        let header = &message.header;
        let tx = TxId(header.tx_id);
        let result = match self.execute(conn, header.kind, tx, message.payload) {
            Ok(Reply::Later(command)) => {
                let ticket = Ticket {
                    conn,
                    req_id: header.req_id,
                    tx_id: header.tx_id,
                };
                match self.leave_to_host(ticket, command) {
                    Ok(()) => {
                        let later = Ok(Reply::Done);
                        return self.count(conn, header.kind, tx, message.payload, &later);
                    }
                    Err(errno) => Err(errno),
                }
            }
            result => result,
        };
        self.count(conn, header.kind, tx, message.payload, &result);
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        match result {
            Ok(reply) => {
                connection
                    .outbox
                    .reply(header.kind, header.req_id, header.tx_id, &[reply.bytes()]);
                self.mark_ready(conn);
                self.after(&reply);
            }
            Err(errno) => {
                let text = wire::error_text(errno).as_bytes();
                connection
                    .outbox
                    .reply(XS_ERROR, header.req_id, header.tx_id, &[text, b"\0"]);
                self.mark_ready(conn);
            }
        }
    }

    /// Counts a request that has been handled, and logs it where that is wanted.
    fn count(
        &mut self,
        conn: ConnId,
        op: XsType,
        tx: TxId,
        payload: &[u8],
        result: &Result<Reply, Errno>,
    ) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.counters.requests += 1;
            connection.counters.errors += u64::from(result.is_err());
            if self.log.has(Switch::Access) {
                let domid = connection.actor.domid;
                let result = result.as_ref().map(drop).map_err(|errno| *errno);
                log::access(domid, op, tx, payload, result);
            }
        }
        self.count_patience(conn);
        self.settle(conn);
    }

    /// What happens when the reply is on its way: a new watch's first event comes after its acknowledgement.
    fn after(&mut self, reply: &Reply) {
        if let Reply::Watching(watch) = reply {
            self.fire_first(watch);
        }
    }

    fn mark_ready(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(&conn)
            && !core::mem::replace(&mut connection.ready, true)
        {
            self.ready.push(conn);
        }
    }
}
