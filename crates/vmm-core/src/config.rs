//! What a guest is to be.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use cantle_abi::PAGE_SIZE;
use cantle_blkback::BackendOptions;
use cantle_disk::{DiskSpec, ImageFormat};

use crate::error::SetupError;
use crate::nets::{MAX_NETS, NetConfig};

/// The largest number of vCPUs a guest can have.
pub const MAX_VCPUS: u32 = 16;
/// The least memory a guest can have, in bytes.
pub const MIN_MEMORY: u64 = 8 << 20;
/// The most event channels a guest can have: those of the FIFO interface.
pub const MAX_EVENT_CHANNELS: u32 = cantle_abi::event_channel::EVTCHN_FIFO_NR_CHANNELS - 1;
/// The least: xenstore's and the console's.
pub const MIN_EVENT_CHANNELS: u32 = 2;

/// A guest to be: everything that [`Machine::new`](crate::Machine::new) needs to know.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// The guest's name, shown in xenstore and in messages.
    pub name: String,
    /// What kind of guest it is.
    pub kind: GuestKind,
    /// The kernel: an ELF with a PVH entry (PV: with Xen's notes), or a bzImage that holds one.
    pub kernel: PathBuf,
    /// The first module, for Linux the initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
    /// RAM in bytes, a multiple of 4096, at least [`MIN_MEMORY`].
    pub memory: u64,
    /// vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Event channels, [`MIN_EVENT_CHANNELS`] to [`MAX_EVENT_CHANNELS`]. A limit, that says nothing of the interface: also a guest
    /// that can have few may use FIFO.
    pub max_event_channels: u32,
    /// Signals that it may send to others each second in the long run, and a tenth of them at once, before its vCPUs are held back
    /// (every signal is delivered; who storms waits); any number where `None`.
    pub max_event_rate: Option<NonZeroU32>,
    /// Block devices, in the order of their names.
    pub disks: Vec<DiskConfig>,
    /// Network interfaces, in the order of their numbers.
    pub nets: Vec<NetConfig>,
    /// What it may lend of its memory, and borrow of others'.
    pub grants: GrantConfig,
    /// How a PVH guest's hypercalls arrive; a PV guest's by its monitor, whatever else is asked for being refused.
    pub transport: TransportChoice,
    /// A Unix socket at which the host's own programs (`cantle-xs`, Xen's xenstore-utils) find the guest's xenstore while it runs.
    /// Whoever may connect to it is a privileged client: its file is its owner's alone.
    pub xenstore_socket: Option<PathBuf>,
}

impl GuestConfig {
    /// Whether there can be such a guest, as far as its numbers tell.
    pub(crate) fn check(&self) -> Result<(), SetupError> {
        let page = PAGE_SIZE as u64;
        let complaint = if self.vcpus == 0 || self.vcpus > MAX_VCPUS {
            format!("{} vCPUs: a guest has 1 to {MAX_VCPUS}", self.vcpus)
        } else if self.memory < MIN_MEMORY || !self.memory.is_multiple_of(page) {
            format!(
                "{} bytes of memory: a guest has at least {MIN_MEMORY}, in whole pages of {page}",
                self.memory
            )
        } else if !(MIN_EVENT_CHANNELS..=MAX_EVENT_CHANNELS).contains(&self.max_event_channels) {
            format!(
                "{} event channels: a guest has {MIN_EVENT_CHANNELS} to {MAX_EVENT_CHANNELS}",
                self.max_event_channels
            )
        } else if self.nets.len() > MAX_NETS {
            format!(
                "{} network interfaces: a guest has {MAX_NETS} at most",
                self.nets.len()
            )
        } else {
            return self.grants.check();
        };
        Err(SetupError::Config(complaint))
    }
}

/// The limits of a guest's grant table. The fields are called as `xl.cfg`'s keys. None of what they allow takes memory before
/// the guest uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantConfig {
    /// The highest version that the guest may choose, one of [`VERSIONS`](Self::VERSIONS). Half a dozen of Xen's advisories are about
    /// version 2, and no guest needs it below 16 TiB of memory.
    pub max_grant_version: u32,
    /// Frames of 4096 bytes, one of [`FRAMES`](Self::FRAMES). Each has 512 entries, so many pages lent at a time; 256 with version 2.
    pub max_grant_frames: u32,
    /// How many pages of others the guest itself may have mapped at a time, in units of 512, one of
    /// [`MAPTRACK_FRAMES`](Self::MAPTRACK_FRAMES). Each takes KVM a memory slot, of which there are 32,764 for all that a guest has.
    pub max_maptrack_frames: u32,
}

impl GrantConfig {
    /// The versions that there are.
    pub const VERSIONS: RangeInclusive<u32> = 1..=2;
    /// The frames that a table may have.
    pub const FRAMES: RangeInclusive<u32> = 1..=4096;
    /// The frames of mappings that there may be.
    pub const MAPTRACK_FRAMES: RangeInclusive<u32> = 0..=4096;

    fn check(&self) -> Result<(), SetupError> {
        for (name, number, limits) in [
            ("max_grant_version", self.max_grant_version, Self::VERSIONS),
            ("max_grant_frames", self.max_grant_frames, Self::FRAMES),
            (
                "max_maptrack_frames",
                self.max_maptrack_frames,
                Self::MAPTRACK_FRAMES,
            ),
        ] {
            if !limits.contains(&number) {
                let (least, most) = (limits.start(), limits.end());
                let complaint = format!("{name}: {number} is not one of {least} to {most}");
                return Err(SetupError::Config(complaint));
            }
        }
        Ok(())
    }
}

/// Version 1 and 64 frames, as is Xen's default; 512 mappings.
impl Default for GrantConfig {
    fn default() -> Self {
        Self {
            max_grant_version: 1,
            max_grant_frames: 64,
            max_maptrack_frames: 1,
        }
    }
}

/// A block device.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// The image and the layers over it.
    pub disk: DiskSpec,
    /// How it is served.
    pub options: BackendOptions,
    /// The guest's name for it (`xvda`); by position where `None`.
    pub vdev: Option<String>,
}

impl DiskConfig {
    /// A writable raw image or block device, named by its position.
    #[must_use]
    pub fn raw(path: impl AsRef<Path>) -> Self {
        Self {
            disk: DiskSpec::new(path, ImageFormat::Raw),
            options: BackendOptions::default(),
            vdev: None,
        }
    }
}

/// What kind of guest it is: how it is started, and who keeps its page tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuestKind {
    /// The processor runs all of it, and KVM translates its memory.
    #[default]
    Pvh,
    /// A 64-bit paravirtual guest: its kernel runs in ring 1 over a small monitor in the same virtual machine.
    Pv,
}

/// How the guest's hypercalls reach the host. A PV guest's reach its monitor, and that the host by a port, whatever is chosen here.
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
