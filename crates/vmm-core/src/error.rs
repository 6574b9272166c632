//! Why a guest could not be set up.

use std::io;
use std::path::PathBuf;

use crate::boot;

/// Why a guest could not be set up. Each prints as one line that says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The configuration asks for what cannot be.
    #[error("{0}")]
    Config(String),
    /// `/dev/kvm` cannot be used.
    #[error("/dev/kvm cannot be opened: {0} (is KVM there, and may this user use it?)")]
    NoKvm(#[source] io::Error),
    /// KVM lacks something, or refuses it.
    #[error("KVM: {what}: {source}")]
    Kvm {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The guest's memory could not be had.
    #[error("guest memory: {0}")]
    Memory(#[source] io::Error),
    /// The kernel or its module cannot be used.
    #[error(transparent)]
    Boot(#[from] boot::BootError),
    /// The forced transport does not fit the host or the kernel.
    #[error("transport {transport}: {why}")]
    Transport {
        /// Which.
        transport: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// A disk cannot be used.
    #[error("disk {}: {why}", path.display())]
    Disk {
        /// Its path.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A network interface cannot be used.
    #[error("network interface {name}: {why}")]
    Net {
        /// What it is connected to.
        name: String,
        /// Why not.
        why: String,
    },
    /// There can be no such interface.
    #[error(transparent)]
    Nets(#[from] NetError),
    /// A part of the host could not be set up.
    #[error("{what}: {why}")]
    Host {
        /// Which.
        what: &'static str,
        /// Why.
        why: String,
    },
}

/// Why an interface cannot come or go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The guest has ended.
    #[error("the guest has ended")]
    Ended,
    /// It has as many as it can have.
    #[error("a guest has {} network interfaces at most", crate::nets::MAX_NETS)]
    TooMany,
    /// It has none of this number.
    #[error("the guest has no network interface {0}")]
    Unknown(u32),
    /// Xenstore refused something.
    #[error("xenstore: {0}")]
    Store(String),
}

impl SetupError {
    pub(crate) fn memory(error: io::Error) -> Self {
        Self::Memory(error)
    }

    pub(crate) fn kvm(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |e| Self::Kvm {
            what,
            source: io::Error::from_raw_os_error(e.errno()),
        }
    }

    pub(crate) fn host<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |e| Self::Host {
            what,
            why: e.to_string(),
        }
    }
}
