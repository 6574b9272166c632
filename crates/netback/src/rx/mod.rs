//! To the guest.

mod backlog;
mod direct;
mod fill;
mod frame;
mod queue;
mod shared;
mod starve;

pub(crate) use frame::FrontEnd;
pub(crate) use queue::{RxQueue, first_bytes};
pub(crate) use shared::RxShared;
