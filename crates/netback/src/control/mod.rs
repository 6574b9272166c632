//! The control ring: how packets to the guest are hashed and spread over its queues, and grants that stay mapped.
//!
//! [`ControlRing`] takes requests off the ring, [`Control`] carries one out. What comes of it is for the queues' threads: a
//! [`HashConfig`], found through a [`HashReader`], and the [`StaticGrants`] of each queue. All of it is as `io/netif.h` says;
//! where that leaves a choice, a request gets the status that Linux's back end gives.

mod grefs;
mod hash;
mod ring;
mod shared;
mod toeplitz;

use std::num::NonZeroU32;
use std::sync::Arc;

use cantle_abi::io::netif::{
    XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER, XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED,
    XEN_NETIF_CTRL_STATUS_SUCCESS, XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING,
    XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING, XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE,
    XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS, XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE,
    XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM, XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS,
    XEN_NETIF_CTRL_TYPE_SET_HASH_KEY, XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING,
    XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE, XenNetifCtrlRequest, XenNetifCtrlResponse,
    XenNetifGref,
};
use cantle_abi::{DomId, GrantRef};
use cantle_grant::{CopyPiece, GrantMapper, GrantStatus, Local};

pub use grefs::{GrefFault, LockedGrants, STATIC_GRANTS_MAX, StaticGrants};
pub use hash::{HASH_KEY_MAX, HASH_MAPPING_MAX, Hash, HashConfig, HashFault, HashKind};
pub use ring::{ControlPass, ControlRing};
pub use shared::{HashReader, SharedHash};
pub use toeplitz::{INPUT_MAX, Toeplitz};

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlFault {
    /// There is no such request, or not with this device.
    #[error("no control request of type {0}")]
    Kind(u16),
    /// The page that a request names cannot be read, or for a list of static grants written.
    #[error("page {gref} of a control request: {status}")]
    Page {
        /// Its grant.
        gref: GrantRef,
        /// Why.
        status: GrantStatus,
    },
    /// About hashing.
    #[error(transparent)]
    Hash(#[from] HashFault),
    /// About static grants.
    #[error(transparent)]
    Gref(#[from] GrefFault),
}

impl ControlFault {
    /// Its `XEN_NETIF_CTRL_STATUS_*`.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Kind(_) => XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED,
            Self::Page { .. } => XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER,
            Self::Hash(fault) => fault.status(),
            Self::Gref(fault) => fault.status(),
        }
    }
}

/// What a front end has said over its control ring.
#[derive(Debug)]
pub struct Control {
    granter: DomId,
    config: Arc<HashConfig>,
    shared: Arc<SharedHash>,
    grants: Box<[Arc<StaticGrants>]>,
}

impl Control {
    /// For a front end that has just connected, of domain `granter`, with so many queues: it has said nothing yet, and `shared`
    /// says so from now on. `grants` are the queues' static grants; with none, the device has no such thing.
    #[must_use]
    pub fn new(
        granter: DomId,
        queues: NonZeroU32,
        shared: Arc<SharedHash>,
        grants: Box<[Arc<StaticGrants>]>,
    ) -> Self {
        let config = Arc::new(HashConfig::new(queues));
        shared.store(config.clone());
        Self {
            granter,
            config,
            shared,
            grants,
        }
    }

    /// Carries out one request: the response, and why it was refused if it was. What it changed is in effect when this returns.
    ///
    /// Work is bounded by [`STATIC_GRANTS_MAX`] pages mapped or unmapped and three copies of at most a page.
    pub fn handle(
        &mut self,
        mapper: &dyn GrantMapper,
        request: &XenNetifCtrlRequest,
    ) -> (XenNetifCtrlResponse, Result<(), ControlFault>) {
        let done = self.carry_out(mapper, request);
        let (status, data) = match &done {
            Ok(data) => (XEN_NETIF_CTRL_STATUS_SUCCESS, *data),
            Err(fault) => (fault.status(), 0),
        };
        let response = XenNetifCtrlResponse {
            id: request.id,
            kind: request.kind,
            status: status.into(),
            data,
        };
        (response, done.map(|_| ()))
    }

    fn carry_out(
        &mut self,
        mapper: &dyn GrantMapper,
        request: &XenNetifCtrlRequest,
    ) -> Result<u32, ControlFault> {
        let [first, second, third] = request.data;
        match request.kind {
            XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS => Ok(self.config.types()?),
            XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS => self.change(|hash| hash.set_types(first)),
            XEN_NETIF_CTRL_TYPE_SET_HASH_KEY => {
                let len = HashConfig::check_key_size(second)?;
                let key = self.read(mapper, GrantRef(first), len)?;
                self.change(|hash| hash.set_key(&key))
            }
            XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE => Ok(HASH_MAPPING_MAX),
            XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE => {
                self.change(|hash| hash.set_mapping_size(first))
            }
            XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING => {
                let len = self.config.check_mapping_range(third, second)?;
                let bytes = self.read(mapper, GrantRef(first), len)?;
                let entries = bytes.as_chunks::<4>().0.iter();
                let entries: Vec<u32> = entries.map(|entry| u32::from_le_bytes(*entry)).collect();
                self.change(|hash| hash.set_mapping(third, &entries))
            }
            XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM => self.change(|hash| hash.set_algorithm(first)),
            XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE => {
                self.grants_of(request.kind, first)?;
                Ok(STATIC_GRANTS_MAX)
            }
            XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING => {
                let grants = self.grants_of(request.kind, first)?;
                let list = self.read_list(mapper, GrantRef(second), third)?;
                grants.add(mapper, self.granter, &list)?;
                Ok(0)
            }
            XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING => {
                let grants = self.grants_of(request.kind, first)?;
                let mut list = self.read_list(mapper, GrantRef(second), third)?;
                // Written once before: a page that cannot be written would leave the front end without an answer.
                self.write_list(mapper, GrantRef(second), &list)?;
                let removed = grants.remove(&mut list);
                self.write_list(mapper, GrantRef(second), &list)?;
                Ok(removed)
            }
            other => Err(ControlFault::Kind(other)),
        }
    }

    /// Changes the configuration and shows it to the queues' threads, or on an error leaves it as it is.
    fn change(
        &mut self,
        with: impl FnOnce(&mut HashConfig) -> Result<(), HashFault>,
    ) -> Result<u32, ControlFault> {
        let mut config = HashConfig::clone(&self.config);
        with(&mut config)?;
        self.config = Arc::new(config);
        self.shared.store(self.config.clone());
        Ok(0)
    }

    fn grants_of(&self, kind: u16, queue: u32) -> Result<Arc<StaticGrants>, ControlFault> {
        let queues = self.grants.len();
        if queues == 0 {
            return Err(ControlFault::Kind(kind));
        }
        let grants = usize::try_from(queue).ok().and_then(|n| self.grants.get(n));
        let grants = grants.ok_or(GrefFault::Queue { queue, queues })?;
        Ok(grants.clone())
    }

    /// A private copy of a list of static grants.
    fn read_list(
        &self,
        mapper: &dyn GrantMapper,
        gref: GrantRef,
        count: u32,
    ) -> Result<Vec<XenNetifGref>, ControlFault> {
        let entries = usize::try_from(count).ok();
        let entries = entries.filter(|_| count <= STATIC_GRANTS_MAX);
        let entries = entries.ok_or(GrefFault::ListSize(count))?;
        let bytes = self.read(mapper, gref, entries * size_of::<XenNetifGref>())?;
        let (bytes, _) = bytes.as_chunks();
        Ok(bytes
            .iter()
            .copied()
            .map(XenNetifGref::from_bytes)
            .collect())
    }

    fn write_list(
        &self,
        mapper: &dyn GrantMapper,
        gref: GrantRef,
        list: &[XenNetifGref],
    ) -> Result<(), ControlFault> {
        let bytes: Vec<u8> = list.iter().flat_map(|entry| entry.to_bytes()).collect();
        self.copy(mapper, gref, Local::From(&bytes))
    }

    /// A private copy of a page's first bytes.
    fn read(
        &self,
        mapper: &dyn GrantMapper,
        gref: GrantRef,
        len: usize,
    ) -> Result<Vec<u8>, ControlFault> {
        let mut bytes = vec![0; len];
        self.copy(mapper, gref, Local::Into(&mut bytes))?;
        Ok(bytes)
    }

    /// Copies between own memory and a page's first bytes. Without bytes nothing is looked at.
    fn copy(
        &self,
        mapper: &dyn GrantMapper,
        gref: GrantRef,
        local: Local<'_>,
    ) -> Result<(), ControlFault> {
        let mut piece = [CopyPiece {
            granter: self.granter,
            gref,
            offset: 0,
            local,
            status: Ok(()),
        }];
        mapper.copy(&mut piece);
        let [piece] = piece;
        piece
            .status
            .map_err(|status| ControlFault::Page { gref, status })
    }
}

#[cfg(test)]
mod tests;
