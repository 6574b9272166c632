//! From the guest to the port.

mod assemble;
mod batch;
mod queue;

pub use assemble::{Answer, Assembler, Extras, Fault, Packet, Slot, Step};
pub(crate) use queue::TxQueue;
