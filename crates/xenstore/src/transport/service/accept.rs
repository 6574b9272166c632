//! New clients.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::peer::Peer;

/// How many are let in before others have a turn.
const ACCEPTS: usize = 64;
/// When the process has no descriptor left: how long until another try. A connection that ends is a reason to try at once.
const RETRY: Duration = Duration::from_millis(100);

/// Decides who may connect, besides what the socket file's mode decides.
pub type Admit = Box<dyn Fn(&Peer) -> bool + Send>;

pub(super) struct Listener {
    socket: UnixListener,
    admit: Option<Admit>,
    /// Somebody may wait.
    pub(super) ready: bool,
    /// There was no descriptor for them, and there may be one from then on.
    starved_until: Option<Instant>,
    /// That was said, and nobody was let in since.
    said: bool,
}

impl Listener {
    pub(super) fn new(socket: UnixListener, admit: Option<Admit>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            admit,
            ready: true,
            starved_until: None,
            said: false,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The time at which it wants to be asked again, if it could not do what it wanted.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.starved_until
    }

    /// A descriptor was closed.
    pub(super) fn descriptor_freed(&mut self) {
        if self.starved_until.take().is_some() {
            self.ready = true;
        }
    }

    /// Lets in some of those who wait.
    pub(super) fn accept(&mut self, mut found: impl FnMut(OwnedFd)) {
        if self.starved_until.is_some_and(|at| at <= Instant::now()) {
            self.descriptor_freed();
        }
        if !self.ready {
            return;
        }
        for _ in 0..ACCEPTS {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&self.socket, flags) {
                Ok(socket) => {
                    self.said = false;
                    if self.admits(&socket) {
                        found(socket);
                    }
                }
                Err(Errno::AGAIN) => {
                    self.ready = false;
                    return;
                }
                // They were gone before they were let in.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(errno) => {
                    if !core::mem::replace(&mut self.said, true) {
                        tracing::warn!(%errno, "xenstore clients wait: none can be accepted now");
                    }
                    self.ready = false;
                    self.starved_until = Some(Instant::now() + RETRY);
                    return;
                }
            }
        }
    }

    fn admits(&self, socket: &OwnedFd) -> bool {
        let Some(admit) = &self.admit else {
            return true;
        };
        let Ok(peer) = Peer::of(socket.as_fd()) else {
            return false;
        };
        let admitted = admit(&peer);
        if !admitted {
            tracing::warn!(?peer, "xenstore client refused");
        }
        admitted
    }
}
