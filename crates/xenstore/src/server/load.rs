//! Reading a migration stream: what it says, checked record by record.
//!
//! A stream may come from another host or from a file that anybody has had. Whatever in it cannot be is an error that names
//! the byte; nothing of it panics, and what is built is bounded by the stream's length. What is built from it is in
//! [`rebuild`](super::rebuild).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::vec;

use cantle_abi::DomId;

use super::ConnId;
use super::save::{EVENT_BYTES, REPLY_BYTES};
use crate::limits::Limits;
use crate::path::{resolve, special};
use crate::state::own::{ConnectionState, DomainState, Own, ServerState, TransactionState};
use crate::state::{
    Conn, ConnectionData, DomainData, GlobalData, NodeData, NodePerm, ParseError, Quota, Reader,
    Record, WatchData,
};
use crate::store::{Builder, Misplaced};
use crate::{Access, Perms};

/// A server that was restored, and what its host has to bring to it.
#[derive(Debug)]
pub struct Restored {
    /// The server.
    pub server: super::Server,
    /// The connections that it has, in the order of the stream.
    pub connections: Vec<RestoredConn>,
    /// Descriptors that belong to no connection.
    pub global: Option<GlobalData>,
    /// How many bytes the stream has.
    pub len: usize,
}

/// A connection of a restored server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredConn {
    /// Its number: the one that it had.
    pub conn: ConnId,
    /// How its bytes travel.
    pub by: Conn,
    /// To be fed to the server before anything else of this connection.
    pub unfed: Vec<u8>,
    /// Which domain of that number it was, where the old host could tell.
    pub unique_id: Option<u64>,
}

/// What a record says that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Wrong {
    /// A path that no node has, or none where this node may be.
    #[error("its path is no such path")]
    Path,
    /// A node whose parent has not come before it.
    #[error("its parent is not known")]
    Orphan,
    /// A node, connection, domain, watch or transaction that has come before.
    #[error("it has come before")]
    Twice,
    /// A node that nobody owns.
    #[error("it has no owner")]
    NoOwner,
    /// A number that is no domain's, or not the domain's that is being loaded.
    #[error("its domain is none, or another one")]
    Domain,
    /// A connection or transaction that no record before has spoken of.
    #[error("it belongs to nothing that is known")]
    Unknown,
    /// A watch's token that is too long.
    #[error("its token is too long")]
    Token,
    /// Output that does not consist of messages.
    #[error("its output is broken")]
    Output,
    /// A transaction that cannot have asked what it is said to have asked.
    #[error("its log is impossible")]
    Log,
    /// More than the domain's quota allows.
    #[error("a quota refuses it")]
    Quota,
    /// A number that nobody can have counted up to, and from which nobody could count on.
    #[error("one of its numbers is too great")]
    Number,
}

/// Why a stream cannot be made use of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Its form.
    #[error(transparent)]
    Form(#[from] ParseError),
    /// What a record says.
    #[error("the record at byte {offset}: {wrong}")]
    Record {
        /// Where the record begins.
        offset: usize,
        /// What.
        wrong: Wrong,
    },
}

/// A transaction as the stream has it.
#[derive(Debug, Default)]
pub(super) struct LoadedTransaction<'a> {
    pub(super) offset: usize,
    pub(super) exact: Option<TransactionState<'a>>,
    pub(super) pending: Vec<NodeData<'a>>,
}

/// A connection as the stream has it.
#[derive(Debug)]
pub(super) struct LoadedConnection<'a> {
    pub(super) offset: usize,
    pub(super) data: ConnectionData<'a>,
    pub(super) own: Option<ConnectionState<'a>>,
    pub(super) watches: Vec<(usize, WatchData<'a>)>,
    pub(super) transactions: BTreeMap<u32, LoadedTransaction<'a>>,
}

/// A domain as the stream has it.
#[derive(Debug, Default)]
pub(super) struct LoadedDomain<'a> {
    pub(super) data: Option<DomainData<'a>>,
    pub(super) own: Option<DomainState>,
}

/// Everything that a stream says.
pub(super) struct Loaded<'a> {
    pub(super) version: u32,
    pub(super) len: usize,
    pub(super) global: Option<GlobalData>,
    pub(super) server: Option<ServerState>,
    pub(super) limits: Limits,
    pub(super) nodes: Builder,
    pub(super) perms: HashMap<Vec<NodePerm>, Arc<Perms>>,
    pub(super) special: Vec<(&'a str, Perms)>,
    pub(super) domains: BTreeMap<DomId, LoadedDomain<'a>>,
    pub(super) connections: Vec<LoadedConnection<'a>>,
    /// Where each is in `connections`, by the stream's number.
    places: HashMap<u32, usize>,
    generations: vec::IntoIter<u64>,
    /// The generation of nodes whose own is not known.
    fresh: u64,
    fresh_used: bool,
}

impl<'a> Loaded<'a> {
    /// Reads a whole stream.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, RestoreError> {
        let mut reader = Reader::new(bytes)?;
        let mut loaded = Self {
            version: reader.version(),
            len: 0,
            global: None,
            server: None,
            limits: Limits::DEFAULT,
            nodes: Builder::new(),
            perms: HashMap::new(),
            special: Vec::new(),
            domains: BTreeMap::new(),
            connections: Vec::new(),
            places: HashMap::new(),
            generations: Vec::new().into_iter(),
            fresh: 1,
            fresh_used: false,
        };
        loop {
            let offset = reader.offset();
            let Some(record) = reader.next() else { break };
            loaded
                .take(offset, record?)
                .map_err(|wrong| RestoreError::Record { offset, wrong })?;
        }
        loaded.len = bytes.len() - reader.rest().len();
        Ok(loaded)
    }

    /// The generation of the newest change.
    pub(super) fn generation(&self) -> u64 {
        match &self.server {
            Some(server) if !self.fresh_used => server.generation,
            _ => self.fresh,
        }
    }

    fn take(&mut self, offset: usize, record: Record<'a>) -> Result<(), Wrong> {
        match record {
            Record::End => {}
            Record::Global(global) => self.global = Some(global),
            Record::GlobalQuota(data) => {
                set_quotas(&mut self.limits, data.domain.iter().chain(&data.global));
            }
            Record::Connection(data) => self.connection(offset, data)?,
            Record::Watch(data) => {
                let connection = self.connection_of(data.conn_id)?;
                connection.watches.push((offset, data));
            }
            Record::Transaction(data) => {
                let connection = self.connection_of(data.conn_id)?;
                let loaded = LoadedTransaction {
                    offset,
                    ..LoadedTransaction::default()
                };
                let before = connection.transactions.insert(data.tx_id, loaded);
                not_twice(before.is_none())?;
            }
            Record::Node(data) => self.node(data)?,
            Record::Domain(data) => {
                let domain = self.domains.entry(real(data.domid)?).or_default();
                not_twice(domain.data.replace(data).is_none())?;
            }
            Record::Own(own) => self.own(own)?,
            Record::Other { kind, .. } => {
                tracing::warn!(kind, offset, "a record that nobody knows is skipped");
            }
        }
        Ok(())
    }

    fn own(&mut self, own: Own<'a>) -> Result<(), Wrong> {
        match own {
            Own::Server(state) => {
                plausible(&state)?;
                self.fresh = state.generation.saturating_add(1);
                self.server = Some(state);
            }
            Own::Generations(generations) => self.generations = generations.into_iter(),
            Own::Domain(state) => {
                state.target.map_or(Ok(DomId::DOM0), real)?;
                let domain = self.domains.entry(real(state.domid)?).or_default();
                not_twice(domain.own.replace(state).is_none())?;
            }
            Own::Connection(state) => {
                countable(state.id)?;
                let connection = self.connection_of(state.conn_id)?;
                not_twice(connection.own.replace(state).is_none())?;
            }
            Own::Transaction(state) => {
                let connection = self.connection_of(state.conn_id)?;
                let transaction = connection.transactions.get_mut(&state.tx_id);
                let transaction = transaction.ok_or(Wrong::Unknown)?;
                not_twice(transaction.exact.replace(state).is_none())?;
            }
            Own::Unwatch { .. } | Own::NoWatches { .. } | Own::DomainGone { .. } => {
                return Err(Wrong::Unknown);
            }
        }
        Ok(())
    }

    fn connection(&mut self, offset: usize, data: ConnectionData<'a>) -> Result<(), Wrong> {
        if let Conn::Ring { domid, target, .. } = data.conn {
            real(domid)?;
            target.map_or(Ok(DomId::DOM0), real)?;
        }
        let before = self.places.insert(data.conn_id, self.connections.len());
        not_twice(before.is_none())?;
        self.connections.push(LoadedConnection {
            offset,
            data,
            own: None,
            watches: Vec::new(),
            transactions: BTreeMap::new(),
        });
        Ok(())
    }

    fn connection_of(&mut self, conn_id: u32) -> Result<&mut LoadedConnection<'a>, Wrong> {
        self.places
            .get(&conn_id)
            .and_then(|at| self.connections.get_mut(*at))
            .ok_or(Wrong::Unknown)
    }

    fn node(&mut self, data: NodeData<'a>) -> Result<(), Wrong> {
        if let Some(pending) = data.pending {
            node_path(data.path)?;
            let connection = self.connection_of(pending.conn_id)?;
            let transaction = connection.transactions.get_mut(&pending.tx_id);
            transaction.ok_or(Wrong::Unknown)?.pending.push(data);
            return Ok(());
        }
        if let Some(name) = special(data.path).map_err(|_| Wrong::Path)? {
            let perms = perms_of(&data.perms).ok_or(Wrong::NoOwner)?;
            self.special.push((name, perms));
            return Ok(());
        }
        let path = node_path(data.path)?;
        let perms = self.shared_perms(&data.perms)?;
        let generation = self.generations.next().unwrap_or_else(|| {
            self.fresh_used = true;
            self.fresh
        });
        self.nodes
            .add(path, data.value, perms, generation)
            .map_err(|misplaced| match misplaced {
                Misplaced::NoParent => Wrong::Orphan,
                Misplaced::Twice => Wrong::Twice,
            })
    }

    /// Most nodes have the permissions of another.
    fn shared_perms(&mut self, list: &[NodePerm]) -> Result<Arc<Perms>, Wrong> {
        if let Some(known) = self.perms.get(list) {
            return Ok(Arc::clone(known));
        }
        let perms = Arc::new(perms_of(list).ok_or(Wrong::NoOwner)?);
        self.perms.insert(list.to_vec(), Arc::clone(&perms));
        Ok(perms)
    }
}

/// Sets those quotas that are known by their names. Others are for other implementations.
pub(super) fn set_quotas<'q, 'a: 'q>(
    limits: &mut Limits,
    quotas: impl Iterator<Item = &'q Quota<'a>>,
) {
    for (name, value) in quotas {
        let name = core::str::from_utf8(name).unwrap_or_default();
        match (name, limits.named_mut(name)) {
            (_, Some(quota)) => *quota = *value,
            (REPLY_BYTES, None) => {
                limits.reply_bytes = usize::try_from(*value).unwrap_or(usize::MAX)
            }
            (EVENT_BYTES, None) => {
                limits.event_bytes = usize::try_from(*value).unwrap_or(usize::MAX)
            }
            _ => tracing::debug!(name, "a quota that nobody knows is skipped"),
        }
    }
}

/// An absolute path, well-formed.
pub(super) fn node_path(path: &[u8]) -> Result<&str, Wrong> {
    let resolved = resolve(path, "").map_err(|_| Wrong::Path)?;
    if resolved.relative {
        return Err(Wrong::Path);
    }
    core::str::from_utf8(path).map_err(|_| Wrong::Path)
}

/// Permissions from the format; `None` where there is no owner. Those of domains that are gone stay away; a node whose owner is gone
/// is domain 0's.
pub(super) fn perms_of(list: &[NodePerm]) -> Option<Perms> {
    let (owner, rest) = list.split_first()?;
    let mut perms = if owner.stale {
        Perms::new(DomId::DOM0, Access::None)
    } else {
        Perms::new(owner.domid, owner.access)
    };
    let listed = rest.iter().filter(|entry| !entry.stale);
    perms.listed = listed.map(|entry| (entry.domid, entry.access)).collect();
    Some(perms)
}

pub(super) fn real(domid: DomId) -> Result<DomId, Wrong> {
    if domid.is_real() {
        Ok(domid)
    } else {
        Err(Wrong::Domain)
    }
}

/// What a server says of itself is what one can be.
pub(super) fn plausible(state: &ServerState) -> Result<(), Wrong> {
    for number in [state.generation, state.next_conn] {
        countable(number)?;
    }
    state
        .privileged
        .iter()
        .try_for_each(|domid| real(*domid).map(drop))
}

/// A number that counts something, and can go on: whoever counts a thousand million a second is there in a hundred years.
fn countable(number: u64) -> Result<(), Wrong> {
    if number < 1 << 62 {
        Ok(())
    } else {
        Err(Wrong::Number)
    }
}

fn not_twice(first: bool) -> Result<(), Wrong> {
    if first { Ok(()) } else { Err(Wrong::Twice) }
}
