//! What a guest is to be.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// The largest number of vCPUs a guest can have.
pub const MAX_VCPUS: u32 = 16;
/// The least memory a guest can have, in bytes.
pub const MIN_MEMORY: u64 = 8 << 20;

/// A guest to be: everything that [`Machine::new`](crate::Machine::new) needs to know.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// The guest's name, shown in xenstore and in messages.
    pub name: String,
    /// The kernel: an ELF with a PVH entry, or a bzImage that holds one.
    pub kernel: PathBuf,
    /// The first module, for Linux the initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
    /// RAM in bytes, a multiple of 4096, at least [`MIN_MEMORY`].
    pub memory: u64,
    /// vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Block devices, in the order of their names.
    pub disks: Vec<DiskConfig>,
    /// Network devices.
    pub nets: Vec<NetConfig>,
    /// How hypercalls arrive.
    pub transport: TransportChoice,
}

/// A block device.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// A raw image or a block device.
    pub path: PathBuf,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The guest's name for it (`xvda`); by position where `None`.
    pub vdev: Option<String>,
}

/// A network device.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// The tap device that its packets leave by. It is made where it does not exist.
    pub tap: String,
    /// The guest's hardware address; one in Xen's range, derived from the guest's name, where `None`.
    pub mac: Option<[u8; 6]>,
}

/// How the guest's hypercalls reach the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransportChoice {
    /// The best that the host and the kernel offer.
    #[default]
    Auto,
    /// KVM's own Xen support (`KVM_CAP_XEN_HVM`).
    Xen,
    /// The hypercall page, filled with `out` instructions.
    Page,
    /// The kernel's own `vmmcall` and `vmcall` rewritten to `out`.
    Rewrite,
}

/// Where the guest's console leads.
#[derive(Debug)]
pub struct Console {
    /// Bytes for the guest. End of file ends the input, not the guest.
    pub input: OwnedFd,
    /// Bytes from the guest.
    pub output: OwnedFd,
}
