//! The KVM edge: what is asked of the kernel, and nothing about Xen's hypercalls.

pub(crate) mod cpuid;
pub(crate) mod delivery;
mod dump;
pub(crate) mod grace;
mod probe;
pub(crate) mod pv;
pub(crate) mod upcall;
pub(crate) mod vcpu;
pub(crate) mod vm;
pub(crate) mod xen;

pub use probe::kvm_runs_stock_kernels;
