//! The migration stream: a whole xenstore, or one guest's part of it, as bytes.
//!
//! Xen documents this format (`docs/designs/xenstore-migration.md`) for two purposes: a daemon hands itself over to its
//! successor (live update), and a guest takes its part of the store along to another host. This module knows the format
//! alone: it turns bytes into plain [`Record`]s and back. What the records mean for a store is the business of
//! [`Server::save`](crate::Server::save) and [`Server::restore`](crate::Server::restore), and for a guest of
//! [`Server::save_domain`](crate::Server::save_domain) and [`Server::load_domain`](crate::Server::load_domain).
//!
//! # The form
//!
//! A stream is a header of 16 bytes, then records, then the record `END`.
//!
//! | what | form |
//! |---|---|
//! | header | `"xenstore"`, version, flags: always big-endian. Bit 0 of the flags says that all the rest is big-endian, too |
//! | record | type (`u32`), length of the body (`u32`), body, then zeroes up to a multiple of 8 |
//!
//! Both versions (1 and 2) and both byte orders are read; version 2 in little-endian is written. The body of each record is
//! described at its Rust type: [`GlobalData`], [`ConnectionData`], [`WatchData`], [`TransactionData`], [`NodeData`],
//! [`GlobalQuotaData`], [`DomainData`].
//!
//! # How it differs from its document
//!
//! - **Padding.** By the document the padding follows the body and is not counted; xenstored counts it, and reads no more
//!   than what is counted. We write the length with the padding in it, so both kinds of reader agree, and read both.
//! - **Special watches.** The permissions of `@introduceDomain` and `@releaseDomain` travel as nodes of these names, as
//!   xenstored has it; the document does not mention them.
//! - **Watches with a depth.** xenstored (4.22) writes a record of type 8 that lacks its depth and is four bytes shorter than its
//!   length says. That cannot be read by anybody; we follow the document.
//! - **Unknown types** are handed out as [`Record::Other`]: the document reserves them, and xenstored skips them. What the
//!   document has no room for is in records of our own: see [`own`].
//!
//! # Hostile input
//!
//! A stream may come from another host. Everything is checked against the bytes that are there before anything is
//! allocated, so parsing costs no more than a small multiple of the input; nothing panics; an error names the byte where it is.

mod cursor;
mod emit;
pub mod own;
mod parse;
mod record;

pub use cursor::{Fault, ParseError};
pub use emit::{EmitError, emit, emit_header};
pub use parse::Reader;
pub use record::{
    Conn, ConnectionData, DomainData, GlobalData, GlobalQuotaData, NodeData, NodePerm, Pending,
    Quota, Record, TransactionData, WatchData,
};

/// The newest version of the format: what is written.
pub const VERSION: u32 = 2;

/// What every stream begins with.
const IDENT: &[u8; 8] = b"xenstore";
/// The header's flag for bodies in big-endian.
const BIG_ENDIAN: u32 = 1;
/// Every record's length is a multiple of this.
const ALIGN: usize = 8;
/// `0xffff` in place of a depth: the watch sees all that is below.
const ANY_DEPTH: u16 = 0xffff;

/// Types of records.
mod kind {
    pub(super) const END: u32 = 0;
    pub(super) const GLOBAL: u32 = 1;
    pub(super) const CONNECTION: u32 = 2;
    pub(super) const WATCH: u32 = 3;
    pub(super) const TRANSACTION: u32 = 4;
    pub(super) const NODE: u32 = 5;
    pub(super) const GLOBAL_QUOTA: u32 = 6;
    pub(super) const DOMAIN: u32 = 7;
    pub(super) const WATCH_EXTENDED: u32 = 8;
}

#[cfg(test)]
mod tests;
