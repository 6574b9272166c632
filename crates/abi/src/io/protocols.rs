//! The names of layouts (`io/protocols.h`): what a front end writes as `protocol`.

/// 32-bit x86.
pub const XEN_IO_PROTO_ABI_X86_32: &str = "x86_32-abi";
/// 64-bit x86: the native layout here.
pub const XEN_IO_PROTO_ABI_X86_64: &str = "x86_64-abi";
/// 32-bit and 64-bit Arm: slots as those of 64-bit x86.
pub const XEN_IO_PROTO_ABI_ARM: &str = "arm-abi";
