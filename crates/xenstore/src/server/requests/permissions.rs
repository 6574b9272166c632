//! Reading and setting permissions, of nodes and of the special names.

use std::sync::Arc;

use cantle_abi::Errno;

use super::{Reply, one, special_name};
use crate::Perms;
use crate::client::TxId;
use crate::server::{ConnId, Server};
use crate::store::{Edit, Query};
use crate::wire::string_and_rest;

impl Server {
    pub(super) fn get_perms(
        &mut self,
        conn: ConnId,
        tx: TxId,
        payload: &[u8],
    ) -> Result<Reply, Errno> {
        let path = one(payload)?;
        if let Some(name) = special_name(path) {
            self.connection(conn)?.must_be_privileged()?;
            let perms = self.special.get(name).ok_or(Errno::EINVAL)?;
            return Reply::limited(perms.emit());
        }
        let node = self.query_at(conn, tx, path, Query::Perms)?;
        Reply::limited(node.seen().perms().emit())
    }

    pub(super) fn set_perms(
        &mut self,
        conn: ConnId,
        tx: TxId,
        payload: &[u8],
    ) -> Result<Reply, Errno> {
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
}
