//! Xen's CPUID leaves (`arch-x86/cpuid.h`).

/// The first of Xen's leaves, where no other hypervisor's come before.
pub const XEN_CPUID_FIRST_LEAF: u32 = 0x4000_0000;
/// `"XenV"`.
pub const XEN_CPUID_SIGNATURE_EBX: u32 = 0x566e_6558;
/// `"MMXe"`.
pub const XEN_CPUID_SIGNATURE_ECX: u32 = 0x6558_4d4d;
/// `"nVMM"`.
pub const XEN_CPUID_SIGNATURE_EDX: u32 = 0x4d4d_566e;
/// The number of leaves after the first.
pub const XEN_CPUID_MAX_NUM_LEAVES: u32 = 5;

/// Leaf 4, EAX: EBX holds the vCPU's number.
pub const XEN_HVM_CPUID_VCPU_ID_PRESENT: u32 = 1 << 3;
/// Leaf 4, EAX: ECX holds the domain's number.
pub const XEN_HVM_CPUID_DOMID_PRESENT: u32 = 1 << 4;
/// Leaf 4, EAX: upcalls by a vector of each vCPU work with event channels.
pub const XEN_HVM_CPUID_UPCALL_VECTOR: u32 = 1 << 6;
