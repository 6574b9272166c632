//! What the toolstack tells of domains and asks about them.

use cantle_abi::{DomId, Errno, Gfn, Port};

use super::{Reply, number, one};
use crate::perms::parse_domid;
use crate::server::{Action, ConnId, ConnKind, Server};
use crate::wire::{strings, strings_and_rest};
use crate::xenbus::domain_path;

impl Server {
    pub(super) fn get_domain_path(payload: &[u8]) -> Result<Reply, Errno> {
        Ok(Reply::text(&domain_path(parse_domid(one(payload)?)?)))
    }

    /// Who asks, and the host, need no introduction.
    pub(super) fn is_domain_introduced(&self, payload: &[u8]) -> Result<Reply, Errno> {
        let domid = parse_domid(one(payload)?)?;
        let known = [DomId::DOM0, DomId::SELF].contains(&domid) || self.is_introduced(domid);
        Ok(Reply::text(if known { "T" } else { "F" }))
    }

    /// `<domid>|<gfn>|<evtchn>|?`. For a domain that is known it is a reconnection: its rings start afresh, with whatever page and port
    /// the host is told now; nobody else is told anything.
    pub(super) fn introduce_by_message(&mut self, payload: &[u8]) -> Result<Reply, Errno> {
        let ([domain, gfn, port], _) = strings_and_rest(payload)?;
        let domid = parse_domid(domain)?;
        let gfn = frame(gfn)?;
        let port = u32::try_from(number(port)?).map_err(|_| Errno::EINVAL)?;
        if domid == DomId::DOM0 || port == 0 {
            return Err(Errno::EINVAL);
        }
        if !self.introduce(domid)? {
            let rings = |conn: &ConnId| {
                self.kind(*conn) == Some(ConnKind::Ring) && self.domid(*conn) == Some(domid)
            };
            let rings: Vec<ConnId> = self.connections.keys().copied().filter(rings).collect();
            for conn in rings {
                self.reset(conn);
            }
        }
        let port = Port(port);
        self.set_ring(domid, gfn, port);
        self.actions
            .push_back(Action::Introduced { domid, gfn, port });
        Ok(Reply::Done)
    }

    pub(super) fn release_by_message(&mut self, payload: &[u8]) -> Result<Reply, Errno> {
        let domid = self.known(payload)?;
        self.release(domid)?;
        self.actions.push_back(Action::Released { domid });
        Ok(Reply::Done)
    }

    pub(super) fn resume_by_message(&mut self, payload: &[u8]) -> Result<Reply, Errno> {
        let domid = self.known(payload)?;
        self.resume(domid);
        Ok(Reply::Done)
    }

    /// The domain that a payload names, which is known and not the host itself.
    fn known(&self, payload: &[u8]) -> Result<DomId, Errno> {
        match parse_domid(one(payload)?)? {
            DomId::DOM0 => Err(Errno::EINVAL),
            domid if self.is_introduced(domid) => Ok(domid),
            _ => Err(Errno::ENOENT),
        }
    }

    /// Gives a stub domain the rights of the domain that it works for.
    pub(super) fn set_target(&mut self, payload: &[u8]) -> Result<Reply, Errno> {
        let ([stub, target], _) = strings_and_rest(payload)?;
        self.target(parse_domid(stub)?, parse_domid(target)?)?;
        Ok(Reply::Done)
    }

    /// `[<domid>|]`: without a domain, of the caller.
    pub(super) fn get_feature(&mut self, conn: ConnId, payload: &[u8]) -> Result<Reply, Errno> {
        let connection = self.connection(conn)?;
        let domid = if payload.is_empty() {
            connection.actor.domid
        } else {
            connection.must_be_privileged()?;
            parse_domid(one(payload)?)?
        };
        if !domid.is_real() {
            return Err(Errno::ENOENT);
        }
        Ok(Reply::text(&self.features(domid).to_string()))
    }

    pub(super) fn set_feature(&mut self, payload: &[u8]) -> Result<Reply, Errno> {
        let [domain, features] = strings(payload)?;
        let domid = parse_domid(domain)?;
        let features = u32::try_from(number(features)?).map_err(|_| Errno::EINVAL)?;
        self.set_features(domid, features)?;
        Ok(Reply::Done)
    }
}

/// A frame's number, in signed decimal as the protocol has it or unsigned as libxenstore sends it.
fn frame(digits: &[u8]) -> Result<Gfn, Errno> {
    match digits.split_first() {
        Some((b'-', magnitude)) => {
            let magnitude = i64::try_from(number(magnitude)?).map_err(|_| Errno::EINVAL)?;
            Ok(Gfn((-magnitude).cast_unsigned()))
        }
        _ => number(digits).map(Gfn),
    }
}
