//! From the guest to the port.

mod assemble;
mod batch;
mod queue;

pub use assemble::{Answer, Assembler, Fault, Packet, Slot, Step};
pub(crate) use queue::{Pass, TxQueue};
