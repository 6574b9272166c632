//! The KVM edge: what is asked of the kernel, and nothing about Xen's hypercalls.

pub(crate) mod cpuid;
mod probe;
pub(crate) mod upcall;
pub(crate) mod vcpu;
pub(crate) mod vm;

pub use probe::kvm_runs_stock_kernels;
