//! Where a PV kernel is entered (`callback.h`).

use core::mem::size_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// For events.
pub const CALLBACKTYPE_event: u16 = 0;
/// When its state cannot be restored.
pub const CALLBACKTYPE_failsafe: u16 = 1;
/// For `syscall` of 64-bit programs.
pub const CALLBACKTYPE_syscall: u16 = 2;
/// For `sysenter`; an old number.
pub const CALLBACKTYPE_sysenter_deprecated: u16 = 3;
/// For NMIs.
pub const CALLBACKTYPE_nmi: u16 = 4;
/// For `sysenter`.
pub const CALLBACKTYPE_sysenter: u16 = 5;
/// For `syscall` of 32-bit programs.
pub const CALLBACKTYPE_syscall32: u16 = 7;

/// [`CallbackRegister::flags`]: events are masked on the way in.
pub const CALLBACKF_mask_events: u16 = 1;

/// Sets an entry.
pub const CALLBACKOP_register: u32 = 0;
/// Takes it back.
pub const CALLBACKOP_unregister: u32 = 1;

/// `struct callback_register`, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CallbackRegister {
    /// In: `CALLBACKTYPE_*`.
    pub kind: u16,
    /// In: `CALLBACKF_*`.
    pub flags: u16,
    /// Padding.
    pub pad: u32,
    /// In: the entry's address.
    pub address: u64,
}

/// `struct callback_unregister`, 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CallbackUnregister {
    /// In: `CALLBACKTYPE_*`.
    pub kind: u16,
    /// Padding.
    pub unused: u16,
}

const _: () = assert!(size_of::<CallbackRegister>() == 16 && size_of::<CallbackUnregister>() == 4);
