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
    /// A `vcpu_info` cannot be there: it would cross the page's end, or is not aligned to 8 bytes.
    #[error("vcpu_info cannot be at offset {0:#x}")]
    BadVcpuInfo(usize),
    /// The vCPU's `vcpu_info` has been placed already.
    #[error("vcpu {0} has its vcpu_info placed already")]
    VcpuInfoPlaced(VcpuId),
    /// The host could not make an eventfd: its error number.
    #[error("no eventfd: error {0}")]
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
            Self::BadVcpuInfo(_) => Errno::ENXIO,
            Self::VcpuInfoPlaced(_) => Errno::EBUSY,
            Self::Eventfd(_) => Errno::ENOMEM,
        }
    }
}
