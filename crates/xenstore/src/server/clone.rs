//! Subtrees for clones of domains: a host's calls, not requests of the protocol.

use cantle_abi::{DomId, Errno};

use super::Server;
use crate::path::resolve;
use crate::store::{Actor, Subtree};

/// The host's own: it may do everything, but the owners' quotas are asked.
const HOST: Actor = Actor {
    domid: DomId::DOM0,
    privileged: false,
    target: None,
};

impl Server {
    /// Captures the subtree at an absolute path as it is now, to be [grafted](Self::graft) as often as wanted. Visits each of
    /// its nodes once.
    ///
    /// # Errors
    ///
    /// `EINVAL` where that is no absolute path, `ENOENT` where there is no node.
    pub fn capture(&mut self, path: &str) -> Result<Subtree, Errno> {
        let path = absolute(path)?;
        self.store.capture(path).ok_or(Errno::ENOENT)
    }

    /// Puts a captured subtree at an absolute path where there is no node, with other domains in the place of those that it
    /// mentions: `domains` are pairs of the old and the new, and who is not among them stays. Missing directories above it
    /// are made as `XS_MKDIR` makes them. It is one change, at once, and those who watch the path or above are told
    /// once, of the path.
    ///
    /// The cost is that of a single write, however large the subtree is: its nodes are shared with the original until one of them
    /// is changed. The new owners pay as if each node were their own.
    ///
    /// Only permissions are translated. **Values are not**: a path such as `/local/domain/5/device/vbd/51712`, a domain's number
    /// or an event channel within the subtree is what it was, and the caller's to write anew.
    ///
    /// # Errors
    ///
    /// The store is as it was where it fails: `EINVAL` where that is no absolute path, a new domain is none, or the subtree is
    /// another server's; `EEXIST` where there is a node; `E2BIG` where a path would be longer than the protocol allows;
    /// `ENOENT` where the subtree mentions a domain that has been released since, and that `domains` does not replace;
    /// and what the quotas of the new owners say.
    pub fn graft(
        &mut self,
        path: &str,
        subtree: &Subtree,
        domains: &[(DomId, DomId)],
    ) -> Result<(), Errno> {
        let path = absolute(path)?;
        if !domains.iter().all(|(_, new)| new.is_real()) {
            return Err(Errno::EINVAL);
        }
        let to = |domain: DomId| {
            let replaced = domains.iter().find(|(old, _)| *old == domain);
            replaced.map_or(domain, |(_, new)| *new)
        };
        let change = self.quotas.ask(HOST, path, |allowance| {
            self.store.graft(path, subtree, to, allowance)
        })?;
        self.fire(&[change]);
        Ok(())
    }
}

fn absolute(path: &str) -> Result<&str, Errno> {
    if !path.starts_with('/') {
        return Err(Errno::EINVAL);
    }
    resolve(path.as_bytes(), "").map(|_| path)
}
