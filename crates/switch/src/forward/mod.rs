//! What is done with a batch of frames that a port sends: first each is [decided](Decision) on, then runs of them are
//! [given](Dispatch) to where they go.

mod decide;
mod dispatch;
mod rewrite;

pub(crate) use decide::{Decision, Sender};
pub(crate) use dispatch::{Dispatch, Scratch};

/// As many frames as are looked at together: as many as a word has bits.
pub(crate) const CHUNK: usize = 64;
