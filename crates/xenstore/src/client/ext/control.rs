//! What an operator asks of the daemon.

use cantle_abi::DomId;

use super::{learn, tell};
use crate::Error;
use crate::client::{Client, Request, TxId, reply};

/// Requests to the daemon itself, for privileged clients: [`Errno::EACCES`](cantle_abi::Errno::EACCES) for others. Features and
/// quotas came with Xen 4.22: an older server answers [`Errno::ENOSYS`](cantle_abi::Errno::ENOSYS).
pub trait ControlExt: Client {
    /// A command and its arguments; the daemon's answer. `help` lists the commands.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`](cantle_abi::Errno::EINVAL) for a command it does not have.
    fn control(&self, words: &[&str]) -> Result<String, Error> {
        learn(self, &Request::control(words), |answer| {
            Ok(reply::text(answer))
        })
    }

    /// The features (`XENSTORE_SERVER_FEATURE_*`) offered to a domain, or to this client; the latter may everybody ask.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOENT`](cantle_abi::Errno::ENOENT) for a domain that is not known.
    fn features(&self, domid: Option<DomId>) -> Result<u32, Error> {
        learn(self, &Request::get_feature(domid), reply::number)
    }

    /// Which features a domain will be offered, to be said before it is introduced.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`](cantle_abi::Errno::EINVAL) for a feature that the server does not have.
    fn set_features(&self, domid: DomId, features: u32) -> Result<(), Error> {
        tell(self, TxId::NONE, &Request::set_feature(domid, features))
    }

    /// The names of the quotas.
    ///
    /// # Errors
    ///
    /// None but those that all requests have.
    fn quota_names(&self) -> Result<Vec<String>, Error> {
        learn(self, &Request::quota_names(), |names| {
            let names = reply::text(names);
            Ok(names.split_ascii_whitespace().map(str::to_owned).collect())
        })
    }

    /// A domain's quota, or what new domains get; 0 is no limit.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`](cantle_abi::Errno::EINVAL) for a quota that does not exist.
    fn quota(&self, domid: Option<DomId>, name: &str) -> Result<u32, Error> {
        learn(self, &Request::get_quota(domid, name), reply::number)
    }

    /// Sets a domain's quota, or what new domains get; 0 is no limit.
    ///
    /// # Errors
    ///
    /// As for [`quota`](Self::quota).
    fn set_quota(&self, domid: Option<DomId>, name: &str, value: u32) -> Result<(), Error> {
        tell(self, TxId::NONE, &Request::set_quota(domid, name, value))
    }
}

impl<C: Client + ?Sized> ControlExt for C {}
