//! The two ends' handshakes as tables: what is due, by what an end has said itself and what it sees. No store and no device in it.
//!
//! A watch event says no more than "look again", and several changes may come as one. So there are no edges here, only
//! what is seen at one moment: an end that missed a state of the other one does what is right for the present one. This also
//! bounds what a flood of states can cost: one look each, however many there were.
//!
//! [`Back`] and [`Front`] say what is due; whoever drives them does it and tells them. They are driven by
//! [`Backend`](super::Backend) and [`Frontend`](super::Frontend).

mod back;
mod front;
#[cfg(test)]
mod tests;

pub use back::{Back, BackMove, BackSight};
use cantle_abi::io::xenbus::XenbusState;
pub use front::{Front, FrontMove, FrontSight};

/// What the other end's state means. It is the other end's word: any number is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// No directory, no state, or text that is no number.
    Gone,
    /// `Initialising`.
    Starts,
    /// `InitWait`, which only a back end says.
    Waits,
    /// `Initialised` or `Connected`.
    Ready,
    /// `Closing`.
    Closing,
    /// `Closed`.
    Closed,
    /// `Reconfiguring`: a connected front end has changed keys of its own, and waits for `Reconfigured`.
    Reconfigures,
    /// `Reconfigured`, which only a back end says: what was changed is in use.
    Reconfigured,
    /// A number without a meaning.
    Odd,
}

impl From<XenbusState> for Peer {
    fn from(state: XenbusState) -> Self {
        match state {
            XenbusState::UNKNOWN => Self::Gone,
            XenbusState::INITIALISING => Self::Starts,
            XenbusState::INIT_WAIT => Self::Waits,
            XenbusState::INITIALISED | XenbusState::CONNECTED => Self::Ready,
            XenbusState::CLOSING => Self::Closing,
            XenbusState::CLOSED => Self::Closed,
            XenbusState::RECONFIGURING => Self::Reconfigures,
            XenbusState::RECONFIGURED => Self::Reconfigured,
            _ => Self::Odd,
        }
    }
}
