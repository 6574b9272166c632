//! A guest that comes from another host, with its part of that host's store.
//!
//! It is first read as a whole, with everything in the terms of this server: see [`translate`]. Then its nodes are
//! written, its connection is made, and its quotas are asked; if anything is refused, all of it is taken back.

mod translate;

use std::collections::BTreeMap;
use std::sync::Arc;

use cantle_abi::DomId;

use super::load::{
    LoadedConnection, LoadedTransaction, RestoreError, RestoredConn, Wrong, node_path, perms_of,
    set_quotas,
};
use super::{ConnId, Server};
use crate::limits::Quota;
use crate::state::own::Own;
use crate::state::{DomainData, NodeData, Reader, Record};
use crate::store::{Actor, Change, Edit};
use crate::wire::MESSAGE_MAX;
use crate::{Limits, Perms};
use translate::Translated;

/// What a stream says of a guest, in this server's terms.
#[derive(Default)]
struct Guest<'a> {
    connection: Option<LoadedConnection<'a>>,
    /// Each with its place in the stream.
    nodes: Vec<(usize, NodeData<'a>)>,
    domain: Option<DomainData<'a>>,
    version: u32,
}

impl Server {
    /// Takes in a guest from [`save_domain`](Self::save_domain), or another implementation's stream of one; it becomes the domain
    /// `domid`, whatever number it had. Returns its connection, if the stream has one: its ring is to be served with it, and what is
    /// [unfed](RestoredConn::unfed) to be fed first.
    ///
    /// The domain may have been [introduced](Self::introduce) before, or is afterwards, which tells those who wait for it; but it has no ring's
    /// connection yet. Nodes that its toolstack has made for it stay, or are replaced where the stream has them too.
    ///
    /// Where the number is another one, paths in the guest's home, watches on these and events of them are translated, and so are the
    /// permissions. Not translated are values, and what the guest has asked and not been answered: a guest that knows its number must be
    /// told. Other domains than the guest and domain 0 mean nobody here: what they were permitted is struck, and their nodes
    /// are domain 0's.
    ///
    /// Those who watch the guest's home are told. The guest itself is not: it finds everything as it was.
    ///
    /// # Errors
    ///
    /// [`RestoreError`], with the place in the stream, and the server is as it was: nodes outside of the guest's home, records
    /// of anybody else, and whatever the quotas refuse. Quotas of the guest's own hold only where they are lower
    /// than what it has here: its toolstack raises them before.
    pub fn load_domain(
        &mut self,
        stream: &[u8],
        domid: DomId,
    ) -> Result<Option<RestoredConn>, RestoreError> {
        let wrong = |offset| move |wrong| RestoreError::Record { offset, wrong };
        if !domid.is_real() || domid == DomId::DOM0 {
            return Err(wrong(0)(Wrong::Domain));
        }
        let translated = Translated::read(stream, domid, self.next_conn)?;
        let guest = Guest::read(&translated)?;
        if let Some(connection) = &guest.connection
            && self.rings().iter().any(|(of, _)| *of == domid)
        {
            return Err(wrong(connection.offset)(Wrong::Twice));
        }
        let before = self.store.snapshot();
        let budget = self.quotas.budget(domid);
        let (limits, special) = (Arc::clone(&budget.limits), budget.special);
        let features = self.domain(domid).features;
        let mut conn = None;
        let loaded = self.load_guest(&guest, domid, &mut conn);
        let (changes, restored) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                if let Some(conn) = conn {
                    self.disconnect(conn);
                }
                self.store.put_back(before);
                let budget = self.quotas.budget(domid);
                (budget.limits, budget.special) = (limits, special);
                self.domain(domid).features = features;
                self.tidy(domid);
                return Err(error);
            }
        };
        // Its own watches have nothing to tell it.
        let own = conn.and_then(|conn| self.connections.remove(&conn));
        self.fire_committed(&changes, before.tree());
        if let (Some(conn), Some(connection)) = (conn, own) {
            let watches = connection.watches_in_order();
            self.connections.insert(conn, connection);
            watches.iter().for_each(|watch| self.note_watch(watch));
        }
        self.note_domain(domid);
        self.tidy(domid);
        Ok(restored)
    }

    /// Does it, up to what is refused. `conn` is the connection as soon as there is one.
    fn load_guest(
        &mut self,
        guest: &Guest<'_>,
        domid: DomId,
        conn: &mut Option<ConnId>,
    ) -> Result<(Vec<Change>, Option<RestoredConn>), RestoreError> {
        if let Some(data) = &guest.domain {
            self.load_limits(domid, data);
            if guest.version >= 2 {
                self.load_features(domid, data.features);
            }
        }
        let mut changes = Vec::new();
        for (offset, data) in &guest.nodes {
            self.load_node(domid, data, &mut changes)
                .map_err(|wrong| RestoreError::Record {
                    offset: *offset,
                    wrong,
                })?;
        }
        let Some(loaded) = &guest.connection else {
            return Ok((changes, None));
        };
        let wrong = |wrong| RestoreError::Record {
            offset: loaded.offset,
            wrong,
        };
        let most = self.quotas.defaults.reply_bytes;
        let most = most.saturating_add(self.quotas.defaults.event_bytes);
        if loaded.data.output.len() > most.saturating_add(3 * MESSAGE_MAX) {
            return Err(wrong(Wrong::Quota));
        }
        *conn = loaded.own.as_ref().map(|own| ConnId(own.id));
        let restored = self.load_connection(loaded)?;
        self.fits(domid, restored.conn).map_err(wrong)?;
        Ok((changes, Some(restored)))
    }

    /// Quotas of the guest's own: no stream gives itself more than there is here.
    fn load_limits(&mut self, domid: DomId, data: &DomainData<'_>) {
        if data.quotas.is_empty() {
            return;
        }
        let budget = self.quotas.budget(domid);
        let mut wanted = Limits::clone(&budget.limits);
        set_quotas(&mut wanted, data.quotas.iter());
        let mut limits = Limits::clone(&budget.limits);
        for (name, value) in wanted.named() {
            if let Some(here) = limits.named_mut(name)
                // 0 is no bound at all.
                && value != 0
                && (*here == 0 || value < *here)
            {
                *here = value;
                budget.special = true;
            }
        }
        budget.limits = Arc::new(limits);
    }

    fn load_node(
        &mut self,
        domid: DomId,
        data: &NodeData<'_>,
        changes: &mut Vec<Change>,
    ) -> Result<(), Wrong> {
        let path = node_path(data.path)?;
        let perms: Perms = perms_of(&data.perms).ok_or(Wrong::NoOwner)?;
        let guest = self.guest(domid);
        let host = Actor {
            privileged: true,
            ..guest
        };
        // The host may do it; the guest pays.
        let allowance = self.quotas.allowance(guest);
        for edit in [
            Edit::Write(data.value.into()),
            Edit::SetPerms(Arc::new(perms)),
        ] {
            let change = self.store.edit(host, path, &edit, &allowance);
            changes.extend(change.map_err(|_| Wrong::Quota)?);
        }
        Ok(())
    }

    fn guest(&self, domid: DomId) -> Actor {
        Actor {
            domid,
            privileged: self.privileged.contains(&domid),
            target: None,
        }
    }

    /// Whether what a connection has come with is within its domain's quotas.
    fn fits(&self, domid: DomId, conn: ConnId) -> Result<(), Wrong> {
        let (Some(connection), Some(budget)) =
            (self.connections.get(&conn), self.quotas.budgets.get(&domid))
        else {
            return Err(Wrong::Unknown);
        };
        let allowance = self.quotas.allowance(self.guest(domid));
        let owned = self.store.usage_of(domid);
        let logs = connection.transactions.values();
        let longest = logs.map(|tx| tx.told().count()).max().unwrap_or(0);
        allowance
            .allow(Quota::Watches, budget.watches as usize)
            .and_then(|()| allowance.allow(Quota::Transactions, budget.transactions as usize))
            .and_then(|()| allowance.allow(Quota::TransactionNodes, longest))
            .and_then(|()| allowance.afford(domid, None, Some(owned.bytes)))
            .map_err(|_| Wrong::Quota)
    }
}

impl<'a> Guest<'a> {
    /// Takes the records, which have been checked, in order.
    fn read(translated: &'a Translated) -> Result<Self, RestoreError> {
        let mut guest = Self {
            version: translated.version,
            ..Self::default()
        };
        for (record, offset) in Reader::fragment(&translated.records, 0).zip(&translated.offsets) {
            let wrong = |wrong| RestoreError::Record {
                offset: *offset,
                wrong,
            };
            guest.take(*offset, record?).map_err(wrong)?;
        }
        Ok(guest)
    }

    fn take(&mut self, offset: usize, record: Record<'a>) -> Result<(), Wrong> {
        match record {
            Record::Connection(data) => {
                let loaded = LoadedConnection {
                    offset,
                    data,
                    own: None,
                    watches: Vec::new(),
                    transactions: BTreeMap::new(),
                };
                if self.connection.replace(loaded).is_some() {
                    return Err(Wrong::Twice);
                }
            }
            Record::Own(Own::Connection(state)) => {
                let connection = self.connection_of(state.conn_id)?;
                connection.own = Some(state);
            }
            Record::Watch(data) => {
                self.connection_of(data.conn_id)?
                    .watches
                    .push((offset, data));
            }
            Record::Transaction(data) => {
                let loaded = LoadedTransaction {
                    offset,
                    ..LoadedTransaction::default()
                };
                let open = &mut self.connection_of(data.conn_id)?.transactions;
                if open.insert(data.tx_id, loaded).is_some() {
                    return Err(Wrong::Twice);
                }
            }
            Record::Node(data) => match data.pending {
                None => self.nodes.push((offset, data)),
                Some(pending) => {
                    let open = &mut self.connection_of(pending.conn_id)?.transactions;
                    let open = open.get_mut(&pending.tx_id).ok_or(Wrong::Unknown)?;
                    open.pending.push(data);
                }
            },
            Record::Domain(data) => {
                if self.domain.replace(data).is_some() {
                    return Err(Wrong::Twice);
                }
            }
            _ => return Err(Wrong::Unknown),
        }
        Ok(())
    }

    fn connection_of(&mut self, conn_id: u32) -> Result<&mut LoadedConnection<'a>, Wrong> {
        self.connection
            .as_mut()
            .filter(|connection| connection.data.conn_id == conn_id)
            .ok_or(Wrong::Unknown)
    }
}
