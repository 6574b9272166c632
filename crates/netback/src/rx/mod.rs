//! From the port to the guest.

mod frame;
mod queue;

pub(crate) use frame::FrontEnd;
pub(crate) use queue::RxQueue;
