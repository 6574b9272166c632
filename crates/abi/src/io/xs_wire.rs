//! Xenstore's wire protocol and ring page (`io/xs_wire.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ring::ByteRing;

/// A message's kind (`XS_*`), as it came: any value is possible.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct XsType(pub u32);

macro_rules! xs_types {
    ($($(#[$doc:meta])* $name:ident = $value:literal),* $(,)?) => {
        $($(#[$doc])* pub const $name: XsType = XsType($value);)*

        impl core::fmt::Debug for XsType {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.0 { $($value => f.write_str(stringify!($name)),)* other => write!(f, "XS type {other}") }
            }
        }
    };
}

xs_types! {
    /// A command to the daemon itself.
    XS_CONTROL = 0,
    /// The names below a node.
    XS_DIRECTORY = 1,
    /// A node's value.
    XS_READ = 2,
    /// A node's permissions.
    XS_GET_PERMS = 3,
    /// Be told of changes below a path.
    XS_WATCH = 4,
    /// Be told no longer.
    XS_UNWATCH = 5,
    /// Begin a transaction.
    XS_TRANSACTION_START = 6,
    /// Commit ("T") or abort ("F") a transaction.
    XS_TRANSACTION_END = 7,
    /// Make a domain known.
    XS_INTRODUCE = 8,
    /// Forget a domain.
    XS_RELEASE = 9,
    /// A domain's home path.
    XS_GET_DOMAIN_PATH = 10,
    /// Set a node's value.
    XS_WRITE = 11,
    /// Make an empty node.
    XS_MKDIR = 12,
    /// Remove a node and what is below it.
    XS_RM = 13,
    /// Set a node's permissions.
    XS_SET_PERMS = 14,
    /// From the daemon: something below a watched path changed.
    XS_WATCH_EVENT = 15,
    /// From the daemon: the request failed; the payload is the error's name.
    XS_ERROR = 16,
    /// Whether a domain is known.
    XS_IS_DOMAIN_INTRODUCED = 17,
    /// Let a domain be shut down again.
    XS_RESUME = 18,
    /// Give a domain another's rights (stub domains).
    XS_SET_TARGET = 19,
    /// Drop all watches and transactions of the caller.
    XS_RESET_WATCHES = 21,
    /// A part of a long directory.
    XS_DIRECTORY_PART = 22,
    /// What the server offers a domain (Xen 4.22).
    XS_GET_FEATURE = 23,
    /// Offer a domain other features (Xen 4.22).
    XS_SET_FEATURE = 24,
    /// A quota's value (Xen 4.22).
    XS_GET_QUOTA = 25,
    /// Set a quota's value (Xen 4.22).
    XS_SET_QUOTA = 26,
}

/// `struct xsd_sockmsg`, 16 bytes: the header of every message. Nothing in it has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XsdSockmsg {
    /// The kind.
    pub kind: XsType,
    /// Echoed in the reply.
    pub req_id: u32,
    /// The transaction, 0 for none.
    pub tx_id: u32,
    /// Bytes of payload that follow.
    pub len: u32,
}

/// The longest payload, in bytes.
pub const XENSTORE_PAYLOAD_MAX: usize = 4096;
/// The longest absolute path, in bytes.
pub const XENSTORE_ABS_PATH_MAX: usize = 3072;
/// The longest relative path, in bytes.
pub const XENSTORE_REL_PATH_MAX: usize = 2048;

/// The ring page's requests, from the guest: 1024 bytes at offset 0.
pub const XENSTORE_REQ: ByteRing = ByteRing::new(0, 1024, 2048, 2052);
/// The ring page's replies and events, to the guest: 1024 bytes at offset 1024.
pub const XENSTORE_RSP: ByteRing = ByteRing::new(1024, 1024, 2056, 2060);
/// The offset of `server_features` in the ring page.
pub const XENSTORE_SERVER_FEATURES_OFFSET: usize = 2064;
/// The offset of `connection` in the ring page.
pub const XENSTORE_CONNECTION_OFFSET: usize = 2068;
/// The offset of `error` in the ring page.
pub const XENSTORE_ERROR_OFFSET: usize = 2072;

/// `server_features`: the server can reset the ring's connection.
pub const XENSTORE_SERVER_FEATURE_RECONNECTION: u32 = 1;
/// `server_features`: the server reports in `error` why it stopped.
pub const XENSTORE_SERVER_FEATURE_ERROR: u32 = 2;
/// `server_features`: a watch may name a depth (Xen 4.22).
pub const XENSTORE_SERVER_FEATURE_WATCHDEPTH: u32 = 4;
/// `server_features`: a node's permissions may name [`DomId::ANY`](crate::DomId::ANY) (Xen 4.22).
pub const XENSTORE_SERVER_FEATURE_DOMID_ANY: u32 = 8;
/// `connection`: the normal state.
pub const XENSTORE_CONNECTED: u32 = 0;
/// `connection`: a reset was asked for and is not done.
pub const XENSTORE_RECONNECT: u32 = 1;
/// `error`: none.
pub const XENSTORE_ERROR_NONE: u32 = 0;
/// `error`: communication failed.
pub const XENSTORE_ERROR_COMM: u32 = 1;
/// `error`: an index is impossible.
pub const XENSTORE_ERROR_RINGIDX: u32 = 2;
/// `error`: the protocol was violated.
pub const XENSTORE_ERROR_PROTO: u32 = 3;
