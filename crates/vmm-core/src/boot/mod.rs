//! Boot: from a kernel file, an initrd and a command line to guest memory that is ready for a PVH start; [`pv`] has that of a PV start.
//!
//! Everything here is a function of bytes and a [`vm_memory::GuestMemoryMmap`]; nothing knows KVM. In the order in
//! which it happens:
//!
//! - [`KernelImage`] reads the file, unwraps a bzImage, decompresses the payload and checks the ELF headers;
//! - [`rewrite`] finds the two places where a current Linux makes hypercalls and, if wanted, rewrites them;
//! - [`layout`] says where RAM, the special pages and the tables lie;
//! - [`load`] writes kernel, initrd, [`acpi`] tables, command line and start info, and says where to start.
//!
//! A kernel image is as hostile as a guest (it may come from the guest's own disk): every offset and length in it is
//! checked before it is used, and what it unpacks to is bounded.

pub mod acpi;
pub mod elf;
pub mod image;
pub mod layout;
pub mod pv;
mod pvh;
pub mod rewrite;
mod unpack;

#[cfg(test)]
mod samples;

pub use elf::ElfError;
pub use image::{ImageError, KernelImage};
pub use pvh::{BootConfig, BootError, Entry, Initrd, load};
pub use rewrite::{HypercallSites, RewriteError};
