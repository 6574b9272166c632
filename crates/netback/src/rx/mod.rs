//! To the guest.

mod backlog;
mod deliver;
mod fill;
mod fit;
mod frame;
mod give;
mod queue;
mod shared;
mod starve;

pub(crate) use deliver::first_bytes;
pub(crate) use frame::FrontEnd;
pub(crate) use queue::RxQueue;
pub(crate) use shared::RxShared;
