//! What the server offers a domain beyond the protocol's first version.

use cantle_abi::io::xs_wire::{
    XENSTORE_SERVER_FEATURE_DOMID_ANY, XENSTORE_SERVER_FEATURE_ERROR,
    XENSTORE_SERVER_FEATURE_RECONNECTION, XENSTORE_SERVER_FEATURE_WATCHDEPTH,
};
use cantle_abi::{DomId, Errno};

use super::Server;

/// All features that this server has (`XENSTORE_SERVER_FEATURE_*`), and what a domain is offered unless the toolstack says
/// otherwise.
pub const FEATURES: u32 = XENSTORE_SERVER_FEATURE_RECONNECTION
    | XENSTORE_SERVER_FEATURE_ERROR
    | XENSTORE_SERVER_FEATURE_WATCHDEPTH
    | XENSTORE_SERVER_FEATURE_DOMID_ANY;

impl Server {
    /// What a domain is offered: the value of `server_features` in its ring page, and what its requests may make use of.
    #[must_use]
    pub fn features(&self, domid: DomId) -> u32 {
        self.domains
            .get(&domid)
            .and_then(|domain| domain.features)
            .unwrap_or(FEATURES)
    }

    /// Offers a domain so much and no more, until it is gone: a guest that is to migrate may be shown what all hosts have.
    ///
    /// # Errors
    ///
    /// `ENOENT` for a number that is no domain's, `EBUSY` for a domain that is known already (as domain 0 always is) and has
    /// looked perhaps, `EINVAL` for a feature that there is not.
    pub fn set_features(&mut self, domid: DomId, features: u32) -> Result<(), Errno> {
        if !domid.is_real() {
            return Err(Errno::ENOENT);
        }
        if domid == DomId::DOM0 || self.is_introduced(domid) {
            return Err(Errno::EBUSY);
        }
        if features & !FEATURES != 0 {
            return Err(Errno::EINVAL);
        }
        self.domain(domid).features = Some(features);
        self.note_domain(domid);
        Ok(())
    }
}
