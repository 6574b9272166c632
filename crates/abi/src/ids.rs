//! The numbers by which Xen's parties name things, each a type of its own.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// The size of a page, a grant and a ring's unit, in bytes.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

/// A domain's number (`domid_t`, xen.h). 0 is the host's own; [`DomId::FIRST_RESERVED`] and above have
/// special meanings and never name a real domain.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct DomId(pub u16);

/// An event channel's number within one domain (`evtchn_port_t`, event_channel.h). 0 is never valid.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct Port(pub u32);

/// An index into a domain's grant table (`grant_ref_t`, grant_table.h).
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct GrantRef(pub u32);

/// A guest frame number: a guest-physical address divided by [`PAGE_SIZE`].
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct Gfn(pub u64);

/// A virtual CPU's number within its domain, from 0.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct VcpuId(pub u32);

macro_rules! display_as_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

display_as_number!(DomId, Port, GrantRef, Gfn, VcpuId);

impl DomId {
    /// The host's own domain.
    pub const DOM0: Self = Self(0);
    /// `DOMID_FIRST_RESERVED`: from here on a number is not a domain.
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
    /// `DOMID_SELF`: whoever makes the call.
    pub const SELF: Self = Self(0x7ff0);
    /// `DOMID_INVALID`.
    pub const INVALID: Self = Self(0x7ff4);
    /// `DOMID_ANY`: no domain in particular; in a node's permissions, every domain.
    pub const ANY: Self = Self(0x7ff5);

    /// The domain that `self` means when `caller` says it: itself, or `caller` for [`DomId::SELF`].
    #[must_use]
    pub const fn resolve(self, caller: Self) -> Self {
        if self.0 == Self::SELF.0 { caller } else { self }
    }

    /// Whether this can name a real domain.
    #[must_use]
    pub const fn is_real(self) -> bool {
        self.0 < Self::FIRST_RESERVED.0
    }
}

impl Gfn {
    /// The frame's first guest-physical address; `None` where that does not fit in 64 bits.
    #[must_use]
    pub const fn addr(self) -> Option<u64> {
        if self.0 >> (64 - PAGE_SHIFT) == 0 {
            Some(self.0 << PAGE_SHIFT)
        } else {
            None
        }
    }

    /// The frame that holds a guest-physical address.
    #[must_use]
    pub const fn of_addr(addr: u64) -> Self {
        Self(addr >> PAGE_SHIFT)
    }
}
