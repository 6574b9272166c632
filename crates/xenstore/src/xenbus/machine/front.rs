//! The front end's table.

use cantle_abi::io::xenbus::XenbusState;

use super::Peer;

/// What a front end sees at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontSight {
    /// Its own `state` node; `None` where its directory is gone.
    pub own: Option<XenbusState>,
    /// Whether the device is to stay, as the back end's directory says (`online`).
    pub online: bool,
    /// The back end's state.
    pub back: Peer,
}

/// What a front end does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontMove {
    /// Nothing, until something changes.
    Rest,
    /// Disconnects if it has offered anything, finds out who serves the device, and says `Initialising`.
    Begin,
    /// Sets up rings and channels, publishes them, and says `Initialised` or `Connected`.
    Offer,
    /// The back end is connected: reads what it has published, and says `Connected`.
    Connect,
    /// The back end has done what was changed: says `Connected`.
    Resume,
    /// Says `Closing`, and uses the device no more.
    Close,
    /// Disconnects if it has offered anything, and says `Closed`.
    Shut,
    /// Says its state again, which somebody has overwritten.
    Restate,
    /// Disconnects if it has offered anything, and says nothing: there is no directory.
    Vanish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Stage {
    New,
    Starting,
    /// What the device needs is published.
    Offered,
    Connected,
    /// Keys were changed, and the back end has not said that it has done what they say.
    Reconfiguring,
    Closing,
    Closed,
}

/// A front end's part of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Front {
    stage: Stage,
    /// The state that it said with its offer.
    offered: XenbusState,
    attached: bool,
    /// Its owner wants to use the device no more.
    closing: bool,
    finished: bool,
}

impl Default for Front {
    fn default() -> Self {
        Self::new()
    }
}

impl Front {
    /// One that has said nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stage: Stage::New,
            offered: XenbusState::INITIALISED,
            attached: false,
            closing: false,
            finished: false,
        }
    }

    /// The state that it has said last; `Initialising` before.
    #[must_use]
    pub fn state(&self) -> XenbusState {
        match self.stage {
            Stage::New | Stage::Starting => XenbusState::INITIALISING,
            Stage::Offered => self.offered,
            Stage::Connected => XenbusState::CONNECTED,
            Stage::Reconfiguring => XenbusState::RECONFIGURING,
            Stage::Closing => XenbusState::CLOSING,
            Stage::Closed => XenbusState::CLOSED,
        }
    }

    /// Whether both ends are connected, as far as this one knows.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.stage, Stage::Connected | Stage::Reconfiguring)
    }

    /// Whether something is offered to the back end, or was and may still be in its use.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Whether the device is gone, and so is this front end.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// The owner wants to use the device no more.
    pub fn ask_close(&mut self) {
        self.closing = true;
    }

    /// The owner wants to use the device again. From any state: a back end takes a front end that begins anew.
    pub fn ask_open(&mut self) {
        self.closing = false;
        self.stage = Stage::New;
    }

    /// Keys were changed, and `Reconfiguring` said, by one that is connected; of others it changes nothing.
    pub fn reconfiguring(&mut self) {
        if self.stage == Stage::Connected {
            self.stage = Stage::Reconfiguring;
        }
    }

    /// What is due.
    #[must_use]
    pub fn due(&self, seen: &FrontSight) -> FrontMove {
        let Some(own) = seen.own else {
            return FrontMove::Vanish;
        };
        let mut stage = self.stage;
        if stage != Stage::New && own != self.state() {
            match own {
                // The directory has been made anew: another back end may serve the device.
                XenbusState::INITIALISING | XenbusState::UNKNOWN => stage = Stage::New,
                _ => return FrontMove::Restate,
            }
        }
        if self.closing {
            end(stage, seen.back)
        } else {
            open(stage, seen.back, seen.online)
        }
    }

    /// Something is offered, and to be taken back once.
    pub fn attached(&mut self) {
        self.attached = true;
    }

    /// What is offered is to be taken back now; false where there is nothing.
    #[must_use]
    pub fn detach(&mut self) -> bool {
        core::mem::take(&mut self.attached)
    }

    /// The move is made; `said` is the state that it came with.
    pub fn made(&mut self, step: FrontMove, said: XenbusState) {
        match step {
            FrontMove::Rest | FrontMove::Restate => {}
            FrontMove::Begin => self.stage = Stage::Starting,
            FrontMove::Offer | FrontMove::Connect if said == XenbusState::CLOSING => {
                self.stage = Stage::Closing;
            }
            FrontMove::Offer => {
                self.stage = Stage::Offered;
                self.offered = said;
            }
            FrontMove::Connect | FrontMove::Resume => self.stage = Stage::Connected,
            FrontMove::Close => self.stage = Stage::Closing,
            FrontMove::Shut => self.stage = Stage::Closed,
            FrontMove::Vanish => self.finished = true,
        }
    }
}

/// While the device is to be used.
fn open(stage: Stage, back: Peer, online: bool) -> FrontMove {
    use FrontMove::{Begin, Connect, Offer, Rest, Resume, Shut};
    match (stage, back) {
        (Stage::New, _) => Begin,

        (Stage::Starting, Peer::Waits) => Offer,
        // Where the device stays, the back end ends what was before and will wait for us.
        (Stage::Starting, Peer::Closing | Peer::Closed) if !online => Shut,
        (Stage::Starting, _) => Rest,

        (Stage::Offered, Peer::Ready) => Connect,
        (Stage::Reconfiguring, Peer::Reconfigured) => Resume,
        (
            Stage::Offered | Stage::Connected | Stage::Reconfiguring,
            Peer::Closing | Peer::Closed | Peer::Gone,
        ) => Shut,
        // One that waits again has been restarted, and connects by what is published.
        (Stage::Offered | Stage::Connected | Stage::Reconfiguring, _) => Rest,

        (Stage::Closing | Stage::Closed, _) => end(stage, back),
    }
}

/// When it is to be used no more.
fn end(stage: Stage, back: Peer) -> FrontMove {
    use FrontMove::{Close, Rest, Shut};
    match (stage, back) {
        (Stage::New | Stage::Starting, _) => Shut,
        (Stage::Closed, _) => Rest,
        (_, Peer::Closing | Peer::Closed | Peer::Gone) => Shut,
        (Stage::Closing, _) => Rest,
        (Stage::Offered | Stage::Connected | Stage::Reconfiguring, _) => Close,
    }
}
