//! Why an event channel operation was refused.

use cantle_abi::{DomId, Errno, Port, VcpuId};

/// Why an operation was refused. [`errno`](Self::errno) is what Xen's call of the same name returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvtchnError {
    /// There is no such domain, or it has ended.
    #[error("no domain {0}")]
    NoDomain(DomId),
    /// There is such a domain already.
    #[error("domain {0} exists")]
    DomainExists(DomId),
    /// The caller may not act for that domain.
    #[error("not allowed for domain {0}")]
    Denied(DomId),
    /// No such port, or it is not in a state for this: not unbound for the caller, closed, or of another kind.
    #[error("port {0} does not exist or is not in a state for this")]
    BadPort(Port),
    /// All ports are in use.
    #[error("no port is free")]
    NoFreePort,
    /// The domain has no such vCPU.
    #[error("no vcpu {0}")]
    NoVcpu(VcpuId),
    /// No such virtual interrupt, or a global one bound elsewhere than on vCPU 0.
    #[error("virtual interrupt {0} cannot be bound there")]
    BadVirq(u32),
    /// The virtual interrupt is bound already.
    #[error("virtual interrupt {0} is bound already")]
    VirqBound(u32),
    /// No vCPUs or ports, more of them than the interface has, or a shared info page that is too small.
    #[error("a domain cannot have this many vcpus, ports or bytes of shared info")]
    BadConfig,
    /// A reset could not end because ports were made all the time.
    #[error("ports were made during the reset")]
    ResetRaced,
    /// The host could not make an eventfd, or its device (feature `xen-device`) refused for another reason: the error number.
    #[error("the system refused: error {0}")]
    Eventfd(i32),
}

impl EvtchnError {
    /// What Xen returns for this.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoDomain(_) => Errno::ESRCH,
            Self::DomainExists(_) | Self::VirqBound(_) => Errno::EEXIST,
            Self::Denied(_) => Errno::EPERM,
            Self::BadPort(_) | Self::BadVirq(_) | Self::BadConfig => Errno::EINVAL,
            Self::NoFreePort => Errno::ENOSPC,
            Self::NoVcpu(_) => Errno::ENOENT,
            Self::ResetRaced => Errno::EAGAIN,
            Self::Eventfd(_) => Errno::ENOMEM,
        }
    }
}

/// Why a `vcpu_info` was not placed (`VCPUOP_register_vcpu_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VcpuInfoError {
    /// The domain has no such vCPU.
    #[error("no vcpu {0}")]
    NoVcpu(VcpuId),
    /// It would cross the page's end, or is not aligned to 8 bytes.
    #[error("vcpu_info cannot be at offset {0:#x}")]
    BadPlace(usize),
    /// It has been placed already.
    #[error("vcpu {0} has its vcpu_info placed already")]
    Placed(VcpuId),
}

impl VcpuInfoError {
    /// What Xen returns for this.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoVcpu(_) => Errno::ENOENT,
            Self::BadPlace(_) => Errno::ENXIO,
            Self::Placed(_) => Errno::EBUSY,
        }
    }
}

/// Why a call about a physical interrupt was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PirqError {
    /// The domain has no such interrupt.
    #[error("no physical interrupt {0}")]
    NoPirq(u32),
    /// The interrupt is bound already.
    #[error("physical interrupt {0} is bound already")]
    Bound(u32),
    /// No port could be made.
    #[error("no port for it")]
    Port(#[from] EvtchnError),
}

impl PirqError {
    /// What Xen returns for this.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoPirq(_) => Errno::EINVAL,
            Self::Bound(_) => Errno::EEXIST,
            Self::Port(error) => error.errno(),
        }
    }
}

/// Why one of the FIFO interface's own calls was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FifoError {
    /// The domain uses the 2-level interface: it has no array to expand.
    #[error("the domain uses the 2-level interface")]
    NotFifo,
    /// The domain uses the 2-level interface, which has no priorities.
    #[error("the 2-level interface has no priorities")]
    NoPriorities,
    /// The guest uses the 2-level interface: it has ports open that it opened itself. It may close them, or reset.
    ///
    /// Xen switches all the same, and says that events may be lost; `EBUSY` is this project's own answer.
    #[error("the guest has ports open by the 2-level interface")]
    InUse,
    /// The domain has no such vCPU.
    #[error("no vcpu {0}")]
    NoVcpu(VcpuId),
    /// A control block cannot be there: it would cross the page's end, or is not aligned to 8 bytes.
    #[error("a control block cannot be at offset {0:#x}")]
    BadControlBlock(usize),
    /// The vCPU has its control block already.
    #[error("vcpu {0} has its control block already")]
    ControlBlockPlaced(VcpuId),
    /// What was handed in is smaller than a page: its length in bytes.
    #[error("{0} bytes are not a page")]
    BadPage(usize),
    /// The event array has all its pages.
    #[error("the event array has all its pages")]
    ArrayFull,
    /// No such port.
    #[error("port {0} does not exist")]
    BadPort(Port),
    /// The port is closed.
    #[error("port {0} is closed")]
    ClosedPort(Port),
    /// No such priority.
    #[error("no priority {0}")]
    BadPriority(u32),
}

impl FifoError {
    /// What Xen returns for this.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotFifo => Errno::EOPNOTSUPP,
            Self::NoPriorities => Errno::ENOSYS,
            Self::InUse => Errno::EBUSY,
            Self::NoVcpu(_) => Errno::ENOENT,
            Self::ArrayFull => Errno::ENOSPC,
            Self::ClosedPort(_) => Errno::EACCES,
            Self::BadControlBlock(_)
            | Self::ControlBlockPlaced(_)
            | Self::BadPage(_)
            | Self::BadPort(_)
            | Self::BadPriority(_) => Errno::EINVAL,
        }
    }
}
