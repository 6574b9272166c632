//! From a front end's keys to queues.

use std::io;
use std::sync::Arc;

use cantle_abi::ring::{Paged, PagedError, RingBroken};
use cantle_abi::{GrantRef, Port};
use cantle_evtchn::{EventChannels, EvtchnError};
use cantle_grant::{Access, GrantMapper, GrantStatus};
use cantle_xenstore::Error as StoreError;
use cantle_xenstore::xenbus::OtherEnd;

use crate::negotiate::{self, Answer, QueueKeys};
use crate::options::BackendOptions;
use crate::ring::{Ends, Protocol, Ring};

/// Why a front end could not be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A key is missing, is no number or cannot be read.
    #[error("the front end's keys cannot be used")]
    Keys(#[from] StoreError),
    /// Another ring layout.
    #[error("the front end's protocol is {0:?}; \"x86_64-abi\" and \"x86_32-abi\" are offered")]
    Protocol(String),
    /// More pages or queues than were offered, or none.
    #[error("the front end wants {wanted} for {key}; at most {most} was offered")]
    NotOffered {
        /// Which key.
        key: &'static str,
        /// What it said.
        wanted: u32,
        /// What was offered.
        most: u32,
    },
    /// A ring page cannot be mapped.
    #[error("the ring page {gref} cannot be mapped")]
    Page {
        /// Its grant.
        gref: GrantRef,
        /// What Xen's interface calls the failure.
        source: GrantStatus,
    },
    /// What was mapped makes no ring.
    #[error("the ring pages make no ring")]
    Pages(#[from] PagedError),
    /// The event channel cannot be bound.
    #[error("the event channel {port} cannot be bound")]
    Channel {
        /// Its port in the front end's domain.
        port: Port,
        /// Why.
        source: EvtchnError,
    },
    /// The ring's indices are impossible from the start.
    #[error("the ring cannot be used")]
    Ring(#[from] RingBroken),
    /// The host has no descriptor, thread or io_uring for it.
    #[error("the host cannot serve it")]
    Host(#[source] io::Error),
    /// The image failed for good while the last connection ended.
    #[error("the image has failed")]
    Image,
}

/// What back ends run on.
#[derive(Clone)]
pub(crate) struct Platform {
    pub(crate) channels: Arc<dyn EventChannels>,
    pub(crate) grants: Arc<dyn GrantMapper>,
}

impl Platform {
    /// Reads the keys and takes over what they name: each queue's ends, and whether grants are persistent. On an error everything
    /// taken so far is given back.
    pub(crate) fn take_over(
        &self,
        front: &OtherEnd<'_>,
        options: &BackendOptions,
    ) -> Result<(Vec<Ends>, bool), ConnectError> {
        let Answer {
            protocol,
            persistent,
            queues,
        } = negotiate::read(front, options)?;
        let ends = queues
            .iter()
            .map(|keys| self.ends(front, protocol, keys))
            .collect::<Result<_, _>>()?;
        Ok((ends, persistent))
    }

    fn ends(
        &self,
        front: &OtherEnd<'_>,
        protocol: Protocol,
        keys: &QueueKeys,
    ) -> Result<Ends, ConnectError> {
        let domain = front.domain();
        let mut pages = Vec::new();
        for &gref in &keys.pages {
            let page = self
                .grants
                .map(domain, gref, Access::ReadWrite)
                .map_err(|source| ConnectError::Page { gref, source })?;
            pages.push(page);
        }
        let port = keys.port;
        let channel = self
            .channels
            .bind_interdomain(domain, port)
            .map_err(|source| ConnectError::Channel { port, source })?;
        Ok(Ends {
            ring: Ring::attach(protocol, Paged::new(pages)?)?,
            channel,
            granter: domain,
        })
    }
}
