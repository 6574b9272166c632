//! xenstore

pub mod client;
mod error;
mod perms;
pub mod xenbus;

pub use client::{Client, ClientExt, TxId, WatchEvent};
pub use error::Error;
pub use perms::{Access, Perms};
