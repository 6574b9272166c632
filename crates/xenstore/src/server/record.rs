//! What was changed since somebody last asked: for a journal.
//!
//! Of the tree, nothing is noted while it changes: a snapshot of how it was is kept, and the difference is found when it is asked for.
//! So whatever changes the tree, in whatever way, is in the record, and a change costs no more than with a transaction open.
//! Everything else is noted where it is changed, as the records that tell of it.

use cantle_abi::{DomId, Port};

use super::load::{
    RestoreError, RestoredConn, Wrong, node_path, perms_of, plausible, real, set_quotas,
};
use super::quota::{event_room, settle};
use super::save::{SaveError, node_perms, ring_id};
use super::watches::Watch;
use super::{ConnId, ConnKind, Server};
use crate::limits::Limits;
use crate::path::special;
use crate::state::own::Own;
use crate::state::{Conn, EmitError, NodeData, Reader, Record, WatchData, emit};
use crate::store::{Difference, Tree, differences};

/// What has been noted.
#[derive(Debug)]
pub(super) struct Recorder {
    /// The tree as it was when the record was last taken.
    tree: Tree,
    records: Vec<u8>,
    error: Option<EmitError>,
}

impl Server {
    /// Whether changes are to be noted from now on. What was noted before is dropped.
    pub fn record(&mut self, on: bool) {
        self.recorder = on.then(|| {
            Box::new(Recorder {
                tree: self.store.tree.clone(),
                records: Vec::new(),
                error: None,
            })
        });
    }

    /// Appends what was changed since the last call, as the records of a [journal](crate::journal)'s frame; whether there was anything. All of
    /// it is to be taken together: a transaction's changes are in one piece.
    ///
    /// # Errors
    ///
    /// [`SaveError::Format`]: nothing more can be taken then.
    pub fn take_record(&mut self, out: &mut Vec<u8>) -> Result<bool, SaveError> {
        let Some(mut recorder) = self.recorder.take() else {
            return Ok(false);
        };
        if let Some(error) = recorder.error {
            self.recorder = Some(recorder);
            return Err(error.into());
        }
        if recorder.records.is_empty() && recorder.tree.is(&self.store.tree) {
            self.recorder = Some(recorder);
            return Ok(false);
        }
        let mut result = self.save_numbers(out);
        out.append(&mut recorder.records);
        let mut perms = Vec::new();
        differences(&recorder.tree, &self.store.tree, |path, difference| {
            perms.clear();
            let value = match difference {
                Difference::Gone => &[],
                Difference::Set(node) => {
                    node_perms(node.perms(), &mut perms);
                    node.value()
                }
            };
            let record = Record::Node(NodeData {
                pending: None,
                perms: core::mem::take(&mut perms),
                path: path.as_bytes(),
                value,
            });
            result = result.and_then(|()| emit(out, &record));
        });
        recorder.tree = self.store.tree.clone();
        recorder.error = result.err();
        self.recorder = Some(recorder);
        result?;
        Ok(true)
    }

    fn note(&mut self, emit: impl FnOnce(&Self, &mut Vec<u8>) -> Result<(), EmitError>) {
        if let Some(mut recorder) = self.recorder.take() {
            let result = emit(self, &mut recorder.records);
            recorder.error = recorder.error.or(result.err());
            self.recorder = Some(recorder);
        }
    }

    /// Something about a domain has changed.
    pub(super) fn note_domain(&mut self, domid: DomId) {
        self.note(|server, out| {
            if server.domains.contains_key(&domid) || server.quotas.budgets.contains_key(&domid) {
                server.save_domain_state(out, domid, true)
            } else {
                emit(out, &Record::Own(Own::DomainGone { domid }))
            }
        });
    }

    /// The set of privileged domains has changed.
    pub(super) fn note_privileged(&mut self) {
        self.note(Self::save_numbers);
    }

    /// The quotas of the store have changed.
    pub(super) fn note_quotas(&mut self) {
        self.note(Self::save_quotas);
    }

    /// The permissions of a special name have changed.
    pub(super) fn note_special(&mut self) {
        self.note(Self::save_special);
    }

    /// A watch was set.
    pub(super) fn note_watch(&mut self, watch: &Watch) {
        if self.recorder.is_some()
            && let Some(domid) = self.ring_of(watch.conn)
        {
            self.note(|_, out| {
                emit(
                    out,
                    &Record::Watch(WatchData {
                        conn_id: ring_id(domid),
                        path: watch.given().as_bytes(),
                        token: &watch.token,
                        depth: watch.stream_depth(),
                    }),
                )
            });
        }
    }

    /// A watch was dropped.
    pub(super) fn note_unwatch(&mut self, watch: &Watch) {
        if self.recorder.is_some()
            && let Some(domid) = self.ring_of(watch.conn)
        {
            self.note(|_, out| {
                emit(
                    out,
                    &Record::Own(Own::Unwatch {
                        conn_id: ring_id(domid),
                        path: watch.given().as_bytes(),
                        token: &watch.token,
                    }),
                )
            });
        }
    }

    /// All of a connection's watches were dropped.
    pub(super) fn note_no_watches(&mut self, conn: ConnId) {
        if self.recorder.is_some()
            && let Some(domid) = self.ring_of(conn)
        {
            let conn_id = ring_id(domid);
            self.note(|_, out| emit(out, &Record::Own(Own::NoWatches { conn_id })));
        }
    }

    /// Whose ring a connection is, if it is one.
    fn ring_of(&self, conn: ConnId) -> Option<DomId> {
        let connection = self.connections.get(&conn)?;
        connection.is_ring().then_some(connection.actor.domid)
    }

    /// Does again what a record says, which was taken from a server like this one; `at` is where it is in its file. Nobody is
    /// told. [`redone`](Self::redone) is to be called after the last one.
    pub(crate) fn redo(&mut self, record: &[u8], at: usize) -> Result<(), RestoreError> {
        let mut reader = Reader::fragment(record, at);
        loop {
            let offset = reader.offset();
            let Some(record) = reader.next() else {
                return Ok(());
            };
            self.redo_one(record?)
                .map_err(|wrong| RestoreError::Record { offset, wrong })?;
        }
    }

    /// Brings the accounts up to date after a series of [`redo`](Self::redo), and tells rings' watches to look: nobody knows what they have
    /// missed. Returns the rings' connections, in the order of their domains.
    pub(crate) fn redone(&mut self) -> Vec<RestoredConn> {
        self.store.recount();
        // Their watches were set, and their quotas changed, without counting.
        let all: Vec<ConnId> = self.connections.keys().copied().collect();
        all.into_iter().for_each(|conn| self.settle(conn));
        let mut rings: Vec<(DomId, ConnId)> = self
            .connections
            .keys()
            .filter_map(|conn| Some((self.ring_of(*conn)?, *conn)))
            .collect();
        rings.sort_unstable();
        let restored = |(domid, conn): &(DomId, ConnId)| RestoredConn {
            conn: *conn,
            by: Conn::Ring {
                domid: *domid,
                target: self.domains.get(domid).and_then(|domain| domain.target),
                port: self.ring(*domid).map_or(Port(0), |(_, port)| port),
            },
            unfed: Vec::new(),
            unique_id: None,
        };
        let connections = rings.iter().map(restored).collect();
        for (_, conn) in rings {
            self.refire(conn);
        }
        connections
    }

    /// Sends a connection the event of each of its watches, as if it had just been set: for a client whose events may
    /// have been lost.
    pub fn refire(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        let mut queued = false;
        for watch in connection.watches_in_order() {
            let room = event_room(&self.quotas, &self.store, connection);
            queued |= connection.outbox.event(&watch, &watch.path, room);
            settle(&mut self.quotas, connection);
        }
        if queued {
            self.mark_ready(conn);
        }
    }

    fn redo_one(&mut self, record: Record<'_>) -> Result<(), Wrong> {
        match record {
            Record::Node(data) => self.redo_node(&data),
            Record::Watch(data) => {
                let conn = self.ring_connection(data.conn_id)?;
                self.load_watch(conn, &data).map(drop)
            }
            Record::GlobalQuota(data) => {
                let mut limits = Limits::clone(&self.quotas.defaults);
                set_quotas(&mut limits, data.domain.iter().chain(&data.global));
                self.quotas.defaults = limits.into();
                Ok(())
            }
            Record::Domain(data) => {
                let mut limits = Limits::clone(&self.quotas.defaults);
                set_quotas(&mut limits, data.quotas.iter());
                if !data.quotas.is_empty() {
                    self.quotas.budget(real(data.domid)?).limits = limits.into();
                }
                self.load_features(real(data.domid)?, data.features);
                Ok(())
            }
            Record::Own(own) => self.redo_own(own),
            _ => Err(Wrong::Unknown),
        }
    }

    fn redo_own(&mut self, own: Own<'_>) -> Result<(), Wrong> {
        match own {
            Own::Server(state) => {
                plausible(&state)?;
                self.store.set_generation(state.generation);
                self.next_conn = self.next_conn.max(state.next_conn);
                state
                    .privileged
                    .into_iter()
                    .for_each(|domid| self.set_privileged(domid));
            }
            Own::Domain(state) => {
                state.target.map_or(Ok(DomId::DOM0), real)?;
                let domain = self.domain(real(state.domid)?);
                domain.introduced = state.introduced;
                domain.shutdown = state.shutdown;
                domain.ring = state.ring;
                if state.quotas {
                    self.quotas.budget(state.domid).special = true;
                }
                self.set_domain_target(state.domid, state.target);
            }
            Own::Unwatch {
                conn_id,
                path,
                token,
            } => {
                let conn = self.ring_connection(conn_id)?;
                self.unwatch_given(conn, path, token)
                    .map_err(|_| Wrong::Unknown)?;
            }
            Own::NoWatches { conn_id } => {
                let conn = self.ring_connection(conn_id)?;
                self.drop_watches(conn);
                self.settle(conn);
            }
            Own::DomainGone { domid } => self.forget_domain(real(domid)?),
            Own::Generations(_) | Own::Connection(_) | Own::Transaction(_) => {
                return Err(Wrong::Unknown);
            }
        }
        Ok(())
    }

    fn redo_node(&mut self, data: &NodeData<'_>) -> Result<(), Wrong> {
        if let Some(name) = special(data.path).map_err(|_| Wrong::Path)? {
            let perms = perms_of(&data.perms).ok_or(Wrong::NoOwner)?;
            *self.special.get_mut(name).ok_or(Wrong::Path)? = perms.into();
            return Ok(());
        }
        let path = node_path(data.path)?;
        match perms_of(&data.perms) {
            Some(perms) => self.store.put(path, data.value, perms),
            None => self.store.cut(path),
        }
        Ok(())
    }

    /// The connection of a domain's ring, made where there is none: a domain that has watches has one.
    fn ring_connection(&mut self, conn_id: u32) -> Result<ConnId, Wrong> {
        let domid = conn_id.checked_sub(1).and_then(|id| u16::try_from(id).ok());
        let domid = real(DomId(domid.ok_or(Wrong::Domain)?))?;
        let known = self
            .connections
            .iter()
            .find(|(_, connection)| connection.is_ring() && connection.actor.domid == domid);
        Ok(match known {
            Some((conn, _)) => *conn,
            None => self.connect_as(ConnKind::Ring, domid, domid == DomId::DOM0),
        })
    }
}
