//! Reading and setting permissions, of nodes and of the special names.

use std::sync::Arc;

use cantle_abi::io::xs_wire::XENSTORE_SERVER_FEATURE_DOMID_ANY;
use cantle_abi::{DomId, Errno};

use super::{Reply, one};
use crate::Perms;
use crate::client::TxId;
use crate::path::special;
use crate::server::{ConnId, Server};
use crate::store::{Actor, Edit, Query};
use crate::wire::string_and_rest;

impl Server {
    pub(super) fn get_perms(
        &mut self,
        conn: ConnId,
        tx: TxId,
        payload: &[u8],
    ) -> Result<Reply, Errno> {
        let path = one(payload)?;
        if let Some(name) = special(path)? {
            let actor = self.connection(conn)?.actor;
            let perms = self.special_perms(actor, name, Actor::may_read)?;
            return Reply::limited(perms.emit());
        }
        let node = self.query_at(conn, tx, path, Query::Perms)?;
        Reply::limited(node.seen().perms().emit())
    }

    /// `<path>|<perm-as-string>|+?`. Those of a special name are set at once, in a transaction too.
    pub(super) fn set_perms(
        &mut self,
        conn: ConnId,
        tx: TxId,
        payload: &[u8],
    ) -> Result<Reply, Errno> {
        let (path, list) = string_and_rest(payload)?;
        let actor = self.connection(conn)?.actor;
        let perms = Arc::new(self.permissible(actor, list)?);
        let Some(name) = special(path)? else {
            return self.edit(conn, tx, path, Edit::SetPerms(perms));
        };
        let before = self.special_perms(actor, name, Actor::owns)?;
        if !actor.privileged && perms.owner != before.owner {
            return Err(Errno::EPERM);
        }
        *self.special.get_mut(name).ok_or(Errno::ENOENT)? = perms;
        self.note_special();
        Ok(Reply::Done)
    }

    /// The permissions in the wire's form, where each names a domain that there can be. Everybody together is named only by
    /// those who are offered that, and never owns anything: somebody's quota has to pay.
    fn permissible(&self, actor: Actor, list: &[u8]) -> Result<Perms, Errno> {
        // What follows the last NUL is reserved.
        let end = list.iter().rposition(|byte| *byte == 0).map(|at| at + 1);
        let perms = Perms::parse(list.get(..end.unwrap_or(0)).unwrap_or_default())?;
        let any = self.features(actor.domid) & XENSTORE_SERVER_FEATURE_DOMID_ANY != 0;
        let named = |domid: DomId| domid.is_real() || (any && domid == DomId::ANY);
        if perms.owner.is_real() && perms.listed.iter().all(|(domid, _)| named(*domid)) {
            Ok(perms)
        } else {
            Err(Errno::EINVAL)
        }
    }

    /// The permissions of a special name, where the actor may do something with it. Which names there are is told only to
    /// those who may read the root.
    fn special_perms(
        &self,
        actor: Actor,
        name: &str,
        may: impl FnOnce(Actor, &Perms) -> bool,
    ) -> Result<Arc<Perms>, Errno> {
        match self.special.get(name) {
            Some(perms) if may(actor, perms) => Ok(Arc::clone(perms)),
            None if actor.may_read(self.store.tree.root().perms()) => Err(Errno::ENOENT),
            _ => Err(Errno::EACCES),
        }
    }
}
