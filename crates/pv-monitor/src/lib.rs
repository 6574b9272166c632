//! The ring-0 monitor that lets a Xen PV kernel run in a KVM guest.
//!
//! A paravirtual kernel has no page tables, descriptor tables and interrupts of its own making: it asks a hypervisor for them. Here that
//! hypervisor is a small program inside the guest's own virtual machine. The program (`src/main.rs`, built for `x86_64-unknown-none`) runs in
//! ring 0, the guest's kernel in ring 1, its programs in ring 3. This library is what the host needs to start it, and what of it can be tested
//! anywhere.

#![no_std]

#[cfg(test)]
extern crate std;

pub mod addresses;
pub mod bounce;
pub mod descriptors;
pub mod emulate;
pub mod events;
#[cfg(test)]
mod fake;
pub mod frames;
pub mod hardware;
pub mod hypercall;
pub mod hypercall_page;
pub mod interface;
pub mod iret;
pub mod mode;
pub mod regs;
pub mod segments;
pub mod start;
pub mod tables;
pub mod trap;
pub mod vcpu;
