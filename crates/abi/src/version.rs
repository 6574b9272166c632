//! Questions about the hypervisor (`version.h`, `features.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The version: major in the upper, minor in the lower half.
pub const XENVER_version: u32 = 0;
/// The version's rest: 16 bytes of text.
pub const XENVER_extraversion: u32 = 1;
/// How it was compiled.
pub const XENVER_compile_info: u32 = 2;
/// Guest kinds that can run: 1024 bytes of text.
pub const XENVER_capabilities: u32 = 3;
/// The source's revision: 64 bytes of text.
pub const XENVER_changeset: u32 = 4;
/// Where the hypervisor's addresses begin.
pub const XENVER_platform_parameters: u32 = 5;
/// Feature bits.
pub const XENVER_get_features: u32 = 6;
/// The page size.
pub const XENVER_pagesize: u32 = 7;
/// The domain's UUID.
pub const XENVER_guest_handle: u32 = 8;
/// The hypervisor's command line: 1024 bytes of text.
pub const XENVER_commandline: u32 = 9;
/// The build id.
pub const XENVER_build_id: u32 = 10;

/// The guest's frames are translated by the host.
pub const XENFEAT_auto_translated_physmap: u32 = 2;
/// Upcalls by a vector.
pub const XENFEAT_hvm_callback_vector: u32 = 8;
/// The clock page works for HVM guests.
pub const XENFEAT_hvm_safe_pvclock: u32 = 9;
/// Interrupts can be bound to event channels.
pub const XENFEAT_hvm_pirqs: u32 = 10;
/// The memory operations know of NUMA.
pub const XENFEAT_memory_op_vnode_supported: u32 = 13;
/// The RSDP may lie anywhere.
pub const XENFEAT_linux_rsdp_unrestricted: u32 = 15;

/// `struct xen_feature_info`, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenFeatureInfo {
    /// In: which 32 features.
    pub submap_idx: u32,
    /// Out: their bits.
    pub submap: u32,
}
