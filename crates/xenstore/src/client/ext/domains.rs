//! What a toolstack tells the store of domains.

use cantle_abi::{DomId, Gfn, Port};

use super::{learn, tell};
use crate::Error;
use crate::client::{Client, Request, TxId, reply};

/// Requests about domains. All but [`domain_path`](Self::domain_path) are for privileged clients only:
/// [`Errno::EACCES`](cantle_abi::Errno::EACCES) for others.
pub trait DomainExt: Client {
    /// Makes a domain known: its page is at `gfn`, and it listens at `port`.
    ///
    /// # Errors
    ///
    /// The server's, where it cannot map the page or bind the port; [`Errno::EINVAL`](cantle_abi::Errno::EINVAL) for what is no
    /// domain.
    fn introduce(&self, domid: DomId, gfn: Gfn, port: Port) -> Result<(), Error> {
        tell(self, TxId::NONE, &Request::introduce(domid, gfn, port))
    }

    /// A domain is gone, and with it all that was its own.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOENT`](cantle_abi::Errno::ENOENT) for a domain that was not introduced.
    fn release(&self, domid: DomId) -> Result<(), Error> {
        tell(self, TxId::NONE, &Request::release(domid))
    }

    /// A domain that had shut down runs again.
    ///
    /// # Errors
    ///
    /// As for [`release`](Self::release).
    fn resume(&self, domid: DomId) -> Result<(), Error> {
        tell(self, TxId::NONE, &Request::resume(domid))
    }

    /// Whether a domain was introduced and not released since.
    ///
    /// # Errors
    ///
    /// None but those that all requests have.
    fn is_domain_introduced(&self, domid: DomId) -> Result<bool, Error> {
        learn(self, &Request::is_domain_introduced(domid), reply::flag)
    }

    /// Where a domain's relative paths begin: `/local/domain/<domid>`.
    ///
    /// # Errors
    ///
    /// None but those that all requests have.
    fn domain_path(&self, domid: DomId) -> Result<String, Error> {
        learn(self, &Request::get_domain_path(domid), |path| {
            Ok(reply::text(path))
        })
    }

    /// Gives `domid` (a stub domain) the rights of `target`.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOENT`](cantle_abi::Errno::ENOENT) where one of them is not known.
    fn set_target(&self, domid: DomId, target: DomId) -> Result<(), Error> {
        tell(self, TxId::NONE, &Request::set_target(domid, target))
    }
}

impl<C: Client + ?Sized> DomainExt for C {}
