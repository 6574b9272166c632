//! The back end's table.

use cantle_abi::io::xenbus::XenbusState;

use super::Peer;

/// What a back end sees at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackSight {
    /// Its own `state` node, which the toolstack writes too; `None` where its directory is gone.
    pub own: Option<XenbusState>,
    /// Whether the device is to stay (`online`).
    pub online: bool,
    /// The front end's state.
    pub front: Peer,
}

/// What a back end does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackMove {
    /// Nothing, until something changes.
    Rest,
    /// Disconnects if it is connected, describes the device and says `InitWait`.
    Await,
    /// Connects the device, then says `Connected`; where that fails, `Closing`.
    Connect,
    /// Looks at the front end's keys again, changes the connection by them and says `Reconfigured`; where that fails, `Closing`.
    Reconfigure,
    /// Looks at the front end's keys once more, and says `Connected`; where that fails, `Closing`. Linux's front end says
    /// `Reconfiguring` before it writes the key that this is about, so that the first look may have been too early; and one
    /// that begins anew before this back end has seen it connected finds `Reconfigured` where it looks.
    Resume,
    /// Says `Closing`. It serves on until the front end closes: a mounted disk may have writes under way.
    Close,
    /// Disconnects if it is connected, and says `Closed`.
    Shut,
    /// Says its state again, which somebody has overwritten.
    Restate,
    /// Disconnects if it is connected, and says nothing: there is no directory.
    Vanish,
}

/// Where it stands by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Stage {
    /// It has said nothing yet. What is in its node is the toolstack's, or that of a back end that died.
    New,
    Waiting,
    Connected,
    /// Connected, and has done what the front end changed.
    Reconfigured,
    Closing,
    Closed,
}

/// What is wanted on this side.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Serve,
    /// To be rid of this front end, and ready for the next.
    Reset,
    /// To be rid of the device.
    Leave,
}

/// A back end's part of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Back {
    stage: Stage,
    attached: bool,
    reset: bool,
    finished: bool,
}

impl Default for Back {
    fn default() -> Self {
        Self::new()
    }
}

impl Back {
    /// One that has said nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stage: Stage::New,
            attached: false,
            reset: false,
            finished: false,
        }
    }

    /// The state that it has said last; `Initialising` before.
    #[must_use]
    pub fn state(&self) -> XenbusState {
        match self.stage {
            Stage::New => XenbusState::INITIALISING,
            Stage::Waiting => XenbusState::INIT_WAIT,
            Stage::Connected => XenbusState::CONNECTED,
            Stage::Reconfigured => XenbusState::RECONFIGURED,
            Stage::Closing => XenbusState::CLOSING,
            Stage::Closed => XenbusState::CLOSED,
        }
    }

    /// Whether the device is connected.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Whether the front end is served, and not on its way out.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        matches!(self.stage, Stage::Connected | Stage::Reconfigured)
    }

    /// Whether the device is gone for good, and so is this back end.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// This side wants the front end to let the device go.
    pub fn ask_close(&mut self) {
        self.reset = true;
    }

    /// What is due.
    #[must_use]
    pub fn due(&self, seen: &BackSight) -> BackMove {
        let Some(own) = seen.own else {
            return BackMove::Vanish;
        };
        let mut stage = self.stage;
        let mut reset = self.reset;
        if stage != Stage::New && own != self.state() {
            match own {
                // The directory has been made anew: nothing that was said before counts.
                XenbusState::INITIALISING | XenbusState::UNKNOWN => stage = Stage::New,
                // A toolstack that wants the device closed says so in our place.
                XenbusState::CLOSING | XenbusState::CLOSED => reset = true,
                _ => return BackMove::Restate,
            }
        }
        let want = match (seen.online, reset) {
            (false, _) => Want::Leave,
            (true, true) => Want::Reset,
            (true, false) => Want::Serve,
        };
        match want {
            Want::Serve => serve(stage, seen.front),
            // One that is about to begin has nothing to be rid of.
            Want::Reset if stage == Stage::New => serve(stage, seen.front),
            Want::Reset | Want::Leave => end(stage, seen.front),
        }
    }

    /// The device is connected. Its disconnection is due, once, before the next connection.
    pub fn attached(&mut self) {
        self.attached = true;
    }

    /// The device is to be disconnected now; false where it is not connected.
    #[must_use]
    pub fn detach(&mut self) -> bool {
        core::mem::take(&mut self.attached)
    }

    /// The device cannot do what the front end changed: instead of the move that was due it closes.
    pub fn refused(&mut self) {
        self.stage = Stage::Closing;
        self.reset = false;
    }

    /// The move is made.
    pub fn made(&mut self, step: BackMove, online: bool) {
        match step {
            BackMove::Rest | BackMove::Restate => {}
            BackMove::Await => self.stage = Stage::Waiting,
            BackMove::Connect if self.attached => self.stage = Stage::Connected,
            BackMove::Reconfigure => self.stage = Stage::Reconfigured,
            BackMove::Resume => self.stage = Stage::Connected,
            BackMove::Connect | BackMove::Close => self.stage = Stage::Closing,
            BackMove::Shut => {
                self.stage = Stage::Closed;
                self.finished = !online;
            }
            BackMove::Vanish => self.finished = true,
        }
        if !matches!(step, BackMove::Rest | BackMove::Restate) {
            self.reset = false;
        }
    }
}

/// While the device is to stay.
fn serve(stage: Stage, front: Peer) -> BackMove {
    use BackMove::{Await, Close, Connect, Reconfigure, Rest, Resume, Shut};
    match (stage, front) {
        (Stage::New, Peer::Closing) => Close,
        (Stage::New, Peer::Closed) => Shut,
        // Also where the front end is connected, to a back end that died: it is waited for like any other, found ready, and connected
        // by the keys that it has published.
        (Stage::New, _) => Await,

        // One that reconfigures was connected, to a back end that died meanwhile.
        (Stage::Waiting, Peer::Ready | Peer::Reconfigures) => Connect,
        (Stage::Waiting, Peer::Closing) => Close,
        (Stage::Waiting, Peer::Closed) => Shut,
        (Stage::Waiting, _) => Rest,

        // It begins again without having closed: a kernel started by another one.
        (Stage::Connected | Stage::Reconfigured, Peer::Starts) => Await,
        (Stage::Connected | Stage::Reconfigured, Peer::Closing) => Close,
        (Stage::Connected | Stage::Reconfigured, Peer::Closed | Peer::Gone) => Shut,
        (Stage::Connected, Peer::Reconfigures) => Reconfigure,
        (Stage::Reconfigured, Peer::Ready) => Resume,
        (Stage::Connected | Stage::Reconfigured, _) => Rest,

        (Stage::Closing, Peer::Starts) => Await,
        (Stage::Closing, Peer::Closed | Peer::Gone) => Shut,
        (Stage::Closing, _) => Rest,

        // One that is ready has not waited for us to wait, as small kernels do.
        (Stage::Closed, Peer::Starts | Peer::Ready) => Await,
        (Stage::Closed, _) => Rest,
    }
}

/// When the device is to go, or this connection of it.
fn end(stage: Stage, front: Peer) -> BackMove {
    use BackMove::{Close, Rest, Shut};
    match (stage, front) {
        (Stage::Closed, _) => Shut,
        (_, Peer::Starts | Peer::Closed | Peer::Gone) => Shut,
        (Stage::Closing, _) => Rest,
        (_, Peer::Ready | Peer::Reconfigures | Peer::Closing) => Close,
        (Stage::Connected | Stage::Reconfigured, _) => Close,
        // Nothing is connected, and nobody there would understand.
        (_, Peer::Waits | Peer::Reconfigured | Peer::Odd) => Shut,
    }
}
