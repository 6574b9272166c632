//! What the toolstack tells of domains.

use cantle_abi::{DomId, Errno, Gfn, Port};

use super::{Reply, number, one};
use crate::perms::parse_domid;
use crate::server::{Action, Server};
use crate::wire::strings;
use crate::xenbus::domain_path;

impl Server {
    pub(super) fn get_domain_path(payload: &[u8]) -> Result<Reply, Errno> {
        Ok(Reply::text(&domain_path(parse_domid(one(payload)?)?)))
    }

    pub(super) fn is_domain_introduced(&self, payload: &[u8]) -> Result<Reply, Errno> {
        let known = self.is_introduced(parse_domid(one(payload)?)?);
        Ok(Reply::text(if known { "T" } else { "F" }))
    }

    pub(super) fn introduce_by_message(&mut self, payload: &[u8]) -> Result<Reply, Errno> {
        let [domain, gfn, port] = strings(payload)?;
        let domid = parse_domid(domain)?;
        let gfn = Gfn(number(gfn)?);
        let port = Port(u32::try_from(number(port)?).map_err(|_| Errno::EINVAL)?);
        self.introduce(domid)?;
        self.actions
            .push_back(Action::Introduced { domid, gfn, port });
        Ok(Reply::Done)
    }

    pub(super) fn release_by_message(&mut self, payload: &[u8]) -> Result<Reply, Errno> {
        let domid = parse_domid(one(payload)?)?;
        if domid != DomId::DOM0 && !self.is_introduced(domid) {
            return Err(Errno::ENOENT);
        }
        self.release(domid)?;
        self.actions.push_back(Action::Released { domid });
        Ok(Reply::Done)
    }

    pub(super) fn resume(&mut self, payload: &[u8]) -> Result<Reply, Errno> {
        if self.is_introduced(parse_domid(one(payload)?)?) {
            Ok(Reply::Done)
        } else {
            Err(Errno::ENOENT)
        }
    }

    /// Gives a stub domain the rights of the domain that it works for.
    pub(super) fn set_target(&mut self, payload: &[u8]) -> Result<Reply, Errno> {
        let [stub, target] = strings(payload)?;
        self.target(parse_domid(stub)?, parse_domid(target)?)?;
        Ok(Reply::Done)
    }
}
