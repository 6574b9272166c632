//! The requests, one function each.

use std::sync::Arc;

use cantle_abi::io::xs_wire::{
    XENSTORE_ABS_PATH_MAX, XENSTORE_PAYLOAD_MAX, XS_CONTROL, XS_DIRECTORY, XS_DIRECTORY_PART,
    XS_GET_DOMAIN_PATH, XS_GET_PERMS, XS_INTRODUCE, XS_IS_DOMAIN_INTRODUCED, XS_MKDIR, XS_READ,
    XS_RELEASE, XS_RESET_WATCHES, XS_RESUME, XS_RM, XS_SET_PERMS, XS_TRANSACTION_END,
    XS_TRANSACTION_START, XS_UNWATCH, XS_WATCH, XS_WRITE, XsType,
};
use cantle_abi::{DomId, Errno, Gfn, Port};

use super::connection::Connection;
use super::watches::Watch;
use super::{Action, ConnId, HostCommand, Server};
use crate::Perms;
use crate::client::TxId;
use crate::path::{Resolved, components, resolve};
use crate::perms::parse_domid;
use crate::store::{Edit, Node, Query};
use crate::wire::{string_and_rest, strings};
use crate::xenbus::domain_path;

/// The longest token of a watch: an event with the longest path and this token still fits in a message.
const TOKEN_MAX: usize = XENSTORE_PAYLOAD_MAX - XENSTORE_ABS_PATH_MAX - 2;

/// What a request is answered.
#[derive(Debug)]
pub(super) enum Reply {
    /// It is done.
    Done,
    /// The watch is set; its first event is due.
    Watching(Arc<Watch>),
    /// A node's value.
    Value(Arc<[u8]>),
    /// Anything else.
    Bytes(Vec<u8>),
    /// Nothing yet: the host will answer.
    Later(HostCommand),
}

impl Reply {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Done | Self::Watching(_) => b"OK\0",
            Self::Value(value) => value,
            Self::Bytes(bytes) => bytes,
            Self::Later(_) => &[],
        }
    }

    /// A string with its NUL.
    fn text(text: &str) -> Self {
        Self::Bytes([text.as_bytes(), b"\0"].concat())
    }

    fn limited(bytes: Vec<u8>) -> Result<Self, Errno> {
        if bytes.len() > XENSTORE_PAYLOAD_MAX {
            Err(Errno::E2BIG)
        } else {
            Ok(Self::Bytes(bytes))
        }
    }
}

impl Server {
    /// Runs one request. The transaction's number is ignored by requests that have nothing to do with transactions.
    pub(super) fn execute(
        &mut self,
        conn: ConnId,
        op: XsType,
        tx: TxId,
        payload: &[u8],
    ) -> Result<Reply, Errno> {
        if payload.len() > XENSTORE_PAYLOAD_MAX {
            return Err(Errno::E2BIG);
        }
        match op {
            XS_READ => {
                let node = self.query(conn, tx, payload, Query::Value)?;
                Ok(Reply::Value(Arc::clone(&node.value)))
            }
            XS_WRITE => self.write(conn, tx, payload),
            XS_MKDIR => self.edit(conn, tx, one(payload)?, Edit::Mkdir),
            XS_RM => self.edit(conn, tx, one(payload)?, Edit::Rm),
            XS_DIRECTORY => self.directory(conn, tx, payload),
            XS_DIRECTORY_PART => self.directory_part(conn, tx, payload),
            XS_GET_PERMS => self.get_perms(conn, tx, payload),
            XS_SET_PERMS => self.set_perms(conn, tx, payload),
            XS_TRANSACTION_START => self.transaction_start(conn, tx),
            XS_TRANSACTION_END => self.transaction_end(conn, tx, payload),
            XS_WATCH => self.watch(conn, payload),
            XS_UNWATCH => self.unwatch(conn, payload),
            XS_RESET_WATCHES => self.reset_watches(conn),
            XS_GET_DOMAIN_PATH => Ok(Reply::text(&domain_path(domid(one(payload)?)?))),
            XS_IS_DOMAIN_INTRODUCED => {
                let known = self.is_introduced(domid(one(payload)?)?);
                Ok(Reply::text(if known { "T" } else { "F" }))
            }
            XS_INTRODUCE | XS_RELEASE | XS_RESUME | XS_CONTROL => {
                self.connection(conn)?.must_be_privileged()?;
                match op {
                    XS_INTRODUCE => self.introduce_by_message(payload),
                    XS_RELEASE => self.release_by_message(payload),
                    XS_RESUME => self.resume(payload),
                    _ => self.control(payload),
                }
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    fn connection(&mut self, conn: ConnId) -> Result<&mut Connection, Errno> {
        self.connections.get_mut(&conn).ok_or(Errno::EIO)
    }

    fn query(
        &mut self,
        conn: ConnId,
        tx: TxId,
        payload: &[u8],
        query: Query,
    ) -> Result<Arc<Node>, Errno> {
        self.query_at(conn, tx, one(payload)?, query)
    }

    fn query_at(
        &mut self,
        conn: ConnId,
        tx: TxId,
        path: &[u8],
        query: Query,
    ) -> Result<Arc<Node>, Errno> {
        let connection = self.connections.get_mut(&conn).ok_or(Errno::EIO)?;
        let Resolved { path, .. } = resolve(path, &connection.home)?;
        if tx == TxId::NONE {
            return connection.actor.lookup(&self.store.tree, &path).cloned();
        }
        let open = connection
            .transactions
            .get_mut(&tx.0)
            .ok_or(Errno::ENOENT)?;
        open.query(connection.actor, &path, query, &self.limits)
    }

    fn edit(&mut self, conn: ConnId, tx: TxId, path: &[u8], edit: Edit) -> Result<Reply, Errno> {
        let connection = self.connections.get_mut(&conn).ok_or(Errno::EIO)?;
        let Resolved { path, .. } = resolve(path, &connection.home)?;
        if tx == TxId::NONE {
            let change = self
                .store
                .edit(connection.actor, &path, &edit, &self.limits)?;
            if let Some(change) = change {
                self.fire(&change);
            }
            return Ok(Reply::Done);
        }
        let open = connection
            .transactions
            .get_mut(&tx.0)
            .ok_or(Errno::ENOENT)?;
        self.store
            .edit_in(open, connection.actor, &path, edit, &self.limits)?;
        Ok(Reply::Done)
    }

    fn write(&mut self, conn: ConnId, tx: TxId, payload: &[u8]) -> Result<Reply, Errno> {
        let (path, value) = string_and_rest(payload)?;
        self.edit(conn, tx, path, Edit::Write(value.into()))
    }

    fn directory(&mut self, conn: ConnId, tx: TxId, payload: &[u8]) -> Result<Reply, Errno> {
        let node = self.query(conn, tx, payload, Query::Children)?;
        let mut list = Vec::new();
        for child in node.children.iter() {
            list.extend_from_slice(child.name.as_bytes());
            list.push(0);
            if list.len() > XENSTORE_PAYLOAD_MAX {
                return Err(Errno::E2BIG);
            }
        }
        Ok(Reply::Bytes(list))
    }

    /// A part of the list of children that begins `offset` bytes into it, after the list's generation; the last part ends
    /// with an empty name.
    fn directory_part(&mut self, conn: ConnId, tx: TxId, payload: &[u8]) -> Result<Reply, Errno> {
        let [path, offset] = strings(payload)?;
        let offset = usize::try_from(number(offset)?).map_err(|_| Errno::EINVAL)?;
        let node = self.query_at(conn, tx, path, Query::Children)?;
        let mut part = format!("{}\0", node.generation).into_bytes();
        let mut at = 0_usize;
        for child in node.children.iter() {
            let len = child.name.len() + 1;
            if at >= offset {
                // One byte is kept for the end's mark.
                if part.len() + len + 1 > XENSTORE_PAYLOAD_MAX {
                    return Ok(Reply::Bytes(part));
                }
                part.extend_from_slice(child.name.as_bytes());
                part.push(0);
            }
            at += len;
        }
        part.push(0);
        Ok(Reply::Bytes(part))
    }

    fn get_perms(&mut self, conn: ConnId, tx: TxId, payload: &[u8]) -> Result<Reply, Errno> {
        let path = one(payload)?;
        if let Some(name) = special_name(path) {
            self.connection(conn)?.must_be_privileged()?;
            let perms = self.special.get(name).ok_or(Errno::EINVAL)?;
            return Reply::limited(perms.emit());
        }
        let node = self.query_at(conn, tx, path, Query::Perms)?;
        Reply::limited(node.perms.emit())
    }

    fn set_perms(&mut self, conn: ConnId, tx: TxId, payload: &[u8]) -> Result<Reply, Errno> {
        let (path, list) = string_and_rest(payload)?;
        let perms = Perms::parse(list)?;
        let mut named = core::iter::once(&perms.owner).chain(perms.listed.iter().map(|(id, _)| id));
        if !named.all(|domid| domid.is_real()) {
            return Err(Errno::EINVAL);
        }
        let perms = Arc::new(perms);
        if let Some(name) = special_name(path) {
            self.connection(conn)?.must_be_privileged()?;
            *self.special.get_mut(name).ok_or(Errno::EINVAL)? = perms;
            return Ok(Reply::Done);
        }
        self.edit(conn, tx, path, Edit::SetPerms(perms))
    }

    fn transaction_start(&mut self, conn: ConnId, tx: TxId) -> Result<Reply, Errno> {
        // There is nothing like a transaction in a transaction.
        if tx != TxId::NONE {
            return Err(Errno::EBUSY);
        }
        let actor = self.connection(conn)?.actor;
        let limit = self.limits.transactions;
        let usage = self.usage(actor.domid);
        if !actor.privileged && usage.transactions >= limit {
            usage.quota_hits += 1;
            return Err(Errno::ENOSPC);
        }
        usage.transactions += 1;
        let begun = self.store.begin();
        let connection = self.connection(conn)?;
        let tx = connection.new_tx();
        connection.transactions.insert(tx, begun);
        Ok(Reply::text(&tx.to_string()))
    }

    fn transaction_end(&mut self, conn: ConnId, tx: TxId, payload: &[u8]) -> Result<Reply, Errno> {
        let commit = match payload {
            b"T\0" => true,
            b"F\0" => false,
            _ => return Err(Errno::EINVAL),
        };
        let connection = self.connection(conn)?;
        let actor = connection.actor;
        let open = connection.transactions.remove(&tx.0).ok_or(Errno::ENOENT)?;
        self.usage(actor.domid).transactions -= 1;
        self.tidy(actor.domid);
        if commit {
            for change in self.store.commit(open, actor, &self.limits)? {
                self.fire(&change);
            }
        }
        Ok(Reply::Done)
    }

    fn watch(&mut self, conn: ConnId, payload: &[u8]) -> Result<Reply, Errno> {
        let [given, token] = strings(payload)?;
        let connection = self.connections.get(&conn).ok_or(Errno::EIO)?;
        let actor = connection.actor;
        let (path, relative) = self.watchable(connection, given)?;
        if token.len() > TOKEN_MAX {
            return Err(Errno::E2BIG);
        }
        if !actor.privileged && components(&path).count() > self.limits.path_depth {
            return Err(Errno::ENOSPC);
        }
        let hidden = if relative {
            connection.home.len() + 1
        } else {
            0
        };
        let key = (Arc::clone(&path), Box::from(token));
        if connection.watches.contains_key(&key) {
            return Err(Errno::EEXIST);
        }
        let limit = self.limits.watches;
        let usage = self.usage(actor.domid);
        if !actor.privileged && usage.watches >= limit {
            usage.quota_hits += 1;
            return Err(Errno::E2BIG);
        }
        usage.watches += 1;
        let watch = Arc::new(Watch::new(self.next_watch, conn, path, token, hidden));
        self.next_watch += 1;
        self.watches.insert(Arc::clone(&watch));
        self.connection(conn)?
            .watches
            .insert(key, Arc::clone(&watch));
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

    fn unwatch(&mut self, conn: ConnId, payload: &[u8]) -> Result<Reply, Errno> {
        let [given, token] = strings(payload)?;
        let connection = self.connections.get(&conn).ok_or(Errno::EIO)?;
        let (path, _) = self.watchable(connection, given)?;
        let connection = self.connection(conn)?;
        let watch = connection
            .watches
            .remove(&(path, Box::from(token)))
            .ok_or(Errno::ENOENT)?;
        connection.outbox.purge(&watch);
        let domid = connection.actor.domid;
        self.watches.remove(&watch);
        self.usage(domid).watches -= 1;
        self.tidy(domid);
        Ok(Reply::Done)
    }

    /// Drops the caller's watches and transactions, as a kernel wants that was started by another.
    fn reset_watches(&mut self, conn: ConnId) -> Result<Reply, Errno> {
        self.drop_watches(conn);
        let connection = self.connection(conn)?;
        let open = core::mem::take(&mut connection.transactions).len();
        let domid = connection.actor.domid;
        self.usage(domid).transactions -= u32::try_from(open).unwrap_or(0);
        self.tidy(domid);
        Ok(Reply::Done)
    }

    pub(super) fn drop_watches(&mut self, conn: ConnId) {
        let Ok(connection) = self.connection(conn) else {
            return;
        };
        let watches = core::mem::take(&mut connection.watches);
        let domid = connection.actor.domid;
        for watch in watches.values() {
            connection.outbox.purge(watch);
        }
        for watch in watches.values() {
            self.watches.remove(watch);
            self.usage(domid).watches -= 1;
        }
    }

    fn introduce_by_message(&mut self, payload: &[u8]) -> Result<Reply, Errno> {
        let [domain, gfn, port] = strings(payload)?;
        let domid = domid(domain)?;
        let gfn = Gfn(number(gfn)?);
        let port = Port(u32::try_from(number(port)?).map_err(|_| Errno::EINVAL)?);
        self.introduce(domid)?;
        self.actions
            .push_back(Action::Introduced { domid, gfn, port });
        Ok(Reply::Done)
    }

    fn release_by_message(&mut self, payload: &[u8]) -> Result<Reply, Errno> {
        let domid = domid(one(payload)?)?;
        if domid != DomId::DOM0 && !self.is_introduced(domid) {
            return Err(Errno::ENOENT);
        }
        self.release(domid)?;
        self.actions.push_back(Action::Released { domid });
        Ok(Reply::Done)
    }

    fn resume(&mut self, payload: &[u8]) -> Result<Reply, Errno> {
        if self.is_introduced(domid(one(payload)?)?) {
            Ok(Reply::Done)
        } else {
            Err(Errno::ENOENT)
        }
    }
}

impl Connection {
    fn must_be_privileged(&self) -> Result<(), Errno> {
        if self.actor.privileged {
            Ok(())
        } else {
            Err(Errno::EACCES)
        }
    }
}

/// A payload that is one string.
fn one(payload: &[u8]) -> Result<&[u8], Errno> {
    strings::<1>(payload).map(|[string]| string)
}

/// A name that begins with `@`.
fn special_name(path: &[u8]) -> Option<&str> {
    core::str::from_utf8(path)
        .ok()
        .filter(|name| name.starts_with('@'))
}

fn domid(digits: &[u8]) -> Result<DomId, Errno> {
    parse_domid(digits)
}

fn number(digits: &[u8]) -> Result<u64, Errno> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Errno::EINVAL);
    }
    core::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(Errno::EINVAL)
}
