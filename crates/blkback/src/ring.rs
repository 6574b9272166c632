//! The ring in the layout of its front end.

use cantle_abi::DomId;
use cantle_abi::io::blkif::{BlkifRequest, BlkifResponse, BlkifX86_32Request, BlkifX86_32Response};
use cantle_abi::io::protocols::{
    XEN_IO_PROTO_ABI_ARM, XEN_IO_PROTO_ABI_X86_32, XEN_IO_PROTO_ABI_X86_64,
};
use cantle_abi::ring::{BackRing, Paged, RingBroken};
use cantle_grant::Mapping;

/// How a front end lays out its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// As 64-bit x86 does, and both Arm.
    #[default]
    Native,
    /// As 32-bit x86 does.
    X86_32,
}

impl Protocol {
    /// By the name in the front end's `protocol` key; `None` for a name that is none.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            XEN_IO_PROTO_ABI_X86_64 | XEN_IO_PROTO_ABI_ARM => Some(Self::Native),
            XEN_IO_PROTO_ABI_X86_32 => Some(Self::X86_32),
            _ => None,
        }
    }

    /// Its name in xenstore.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => XEN_IO_PROTO_ABI_X86_64,
            Self::X86_32 => XEN_IO_PROTO_ABI_X86_32,
        }
    }
}

/// A back end's side of a block ring of 1 to 16 pages.
#[derive(Debug)]
pub(crate) enum Ring {
    Native(BackRing<BlkifRequest, BlkifResponse, Paged<Mapping>>),
    X86_32(BackRing<BlkifX86_32Request, BlkifX86_32Response, Paged<Mapping>>),
}

/// Does the same with either.
macro_rules! either {
    ($self:expr, $ring:ident => $what:expr) => {
        match $self {
            Ring::Native($ring) => $what,
            Ring::X86_32($ring) => $what,
        }
    };
}

impl Ring {
    pub(crate) fn attach(protocol: Protocol, pages: Paged<Mapping>) -> Result<Self, RingBroken> {
        Ok(match protocol {
            Protocol::Native => Self::Native(BackRing::attach(pages)?),
            Protocol::X86_32 => Self::X86_32(BackRing::attach(pages)?),
        })
    }

    pub(crate) fn slots(&self) -> u32 {
        either!(self, ring => ring.slots())
    }

    /// A private copy of the next request, in the native layout.
    pub(crate) fn next_request(&mut self) -> Result<Option<BlkifRequest>, RingBroken> {
        match self {
            Self::Native(ring) => ring.next_request(),
            Self::X86_32(ring) => Ok(ring.next_request()?.map(BlkifRequest::from)),
        }
    }

    pub(crate) fn push_response(&mut self, response: BlkifResponse) -> Result<(), RingBroken> {
        match self {
            Self::Native(ring) => ring.push_response(&response),
            Self::X86_32(ring) => ring.push_response(&response.into()),
        }
    }

    pub(crate) fn publish_responses(&mut self) -> bool {
        either!(self, ring => ring.publish_responses())
    }

    pub(crate) fn final_check_for_requests(&mut self) -> bool {
        either!(self, ring => ring.final_check_for_requests())
    }
}

/// What a queue is made of, once its front end's keys are taken over.
pub(crate) struct Ends {
    pub(crate) ring: Ring,
    pub(crate) channel: Box<dyn cantle_evtchn::Channel>,
    pub(crate) granter: DomId,
}
