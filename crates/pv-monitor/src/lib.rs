//! The ring-0 monitor that lets a Xen PV kernel run in a KVM guest.
//!
//! A paravirtual kernel has no page tables, descriptor tables and interrupts of its own making: it asks a hypervisor for them. Here that
//! hypervisor is a small program inside the guest's own virtual machine. The program (`src/main.rs`, built for `x86_64-unknown-none`) runs in
//! ring 0, the guest's kernel in ring 1, its programs in ring 3. This library is what the host needs to start it ([`interface`]), and what of it
//! can be tested anywhere: entries of the guest's kernel ([`bounce`], [`trap`]), the way back ([`mod@iret`]), calls ([`hypercall`]) and privileged
//! instructions ([`emulate`]), all over the traits that the program implements with the processor ([`hardware`], [`mode`]).
//!
//! Nothing here is a boundary between guests: the virtual machine is. A guest that breaks its monitor has what any guest with ring 0 has, so that
//! page tables need no types and no counts. The crate's README says what is checked, and why that is enough.

#![no_std]

#[cfg(any(test, feature = "test-utils"))]
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
#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;
pub mod trap;
pub mod vcpu;
pub mod writable;
