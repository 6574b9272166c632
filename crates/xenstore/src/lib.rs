//! xenstore

pub mod client;
mod error;
mod limits;
mod path;
mod perms;
pub mod server;
mod shared;
mod store;
pub mod transport;
mod wake;
pub mod wire;
pub mod xenbus;

pub use client::{Client, ClientExt, LocalClient, TxId, WatchEvent};
pub use error::Error;
pub use limits::Limits;
pub use perms::{Access, Perms};
pub use server::Server;
pub use shared::{Shared, Waker};
