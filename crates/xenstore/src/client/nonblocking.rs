//! A client for event loops.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use cantle_abi::Errno;

use super::link::{Buffer, ConnectError, Link, Lost, default_path};
use super::machine::{Machine, Ticket};
use super::poller::Poller;
use super::{Request, TxId, WatchEvent};
use crate::Error;

/// How often [`NonBlocking::process`] reads before it lets others have their turn.
const ROUNDS: usize = 8;

/// A connection to a xenstore that never makes its user wait.
///
/// Requests are queued by [`send`](Self::send), and any number may be on their way. Call [`process`](Self::process) after
/// queueing, and when [`fd`](Self::fd) is readable; then take what came, until there is no more, by
/// [`take_reply`](Self::take_reply) and [`take_event`](Self::take_event), and only then wait again.
///
/// ```
/// use cantle_xenstore::client::{NonBlocking, Request, reply};
/// use cantle_xenstore::TxId;
///
/// # fn look(client: &mut NonBlocking, wait: impl Fn(std::os::fd::BorrowedFd<'_>)) -> Result<(), Box<dyn std::error::Error>> {
/// let name = client.send(TxId::NONE, &Request::read("name"))?;
/// client.send(TxId::NONE, &Request::watch("control/shutdown", "stop"))?;
/// loop {
///     client.process()?;
///     while let Some((ticket, result)) = client.take_reply() {
///         if ticket == name {
///             println!("I am {}", reply::text(&result?));
///         }
///     }
///     while let Some(event) = client.take_event() {
///         println!("{} changed", event.path);
/// #       return Ok(());
///     }
///     wait(client.fd());
/// }
/// # }
/// ```
///
/// The server is not trusted to be kind: at most 256 KiB of events wait here, and one more for each watch, and of replies
/// as many as were asked for.
#[derive(Debug)]
pub struct NonBlocking {
    path: PathBuf,
    link: Link,
    machine: Machine,
    poller: Poller,
    buffer: Buffer,
    lost: Option<Lost>,
}

impl NonBlocking {
    /// Connects to where xenstore is for this process: see [`default_path`].
    ///
    /// # Errors
    ///
    /// Where nothing is there, or nobody listens.
    pub fn open() -> Result<Self, ConnectError> {
        Self::connect(&default_path())
    }

    /// Connects to the socket or device at `path`. Connecting itself may wait, for a daemon that is slow to accept.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn connect(path: &Path) -> Result<Self, ConnectError> {
        Self::over(Link::open(path)?, path).map_err(|source| ConnectError {
            path: path.to_owned(),
            source,
        })
    }

    /// Uses a socket that is connected already. Such a client cannot [`reconnect`](Self::reconnect).
    ///
    /// # Errors
    ///
    /// Where the process may open no more files.
    pub fn from_stream(stream: UnixStream) -> io::Result<Self> {
        Self::over(Link::Socket(stream), Path::new(""))
    }

    fn over(link: Link, path: &Path) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(&link)?;
        Ok(Self {
            path: path.to_owned(),
            link,
            machine: Machine::default(),
            poller,
            buffer: Buffer::default(),
            lost: None,
        })
    }

    /// Readable when [`process`](Self::process) has something to do; to be polled only. It stays the same for ever.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.poller.fd()
    }

    /// Queues a request; [`process`](Self::process) sends it. The reply will have the ticket that is returned.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`] for a name with a NUL in it, [`Errno::E2BIG`] for what fits into no message, [`Errno::ENOENT`] for a
    /// transaction that is not open, [`Errno::EIO`] where the connection is lost.
    pub fn send(&mut self, tx: TxId, request: &Request<'_>) -> Result<Ticket, Errno> {
        if self.lost.is_some() {
            return Err(Errno::EIO);
        }
        self.machine.request(request.op(), tx, request.payload()?)
    }

    /// Sends what is queued and reads what is there, as far as both is possible at once. It never blocks, and its work is
    /// bounded: what is left makes [`fd`](Self::fd) readable.
    ///
    /// # Errors
    ///
    /// The connection is lost, now or since an earlier call. All requests that were on their way are answered by
    /// [`Errno::EIO`] then; whether the server has carried them out is not known.
    pub fn process(&mut self) -> Result<(), Lost> {
        if let Some(lost) = self.lost {
            return Err(lost);
        }
        self.pump().inspect_err(|lost| {
            self.lost = Some(*lost);
            self.machine.lose();
            self.poller.remove(&self.link);
        })
    }

    fn pump(&mut self) -> Result<(), Lost> {
        let sent = self.link.flush(&mut self.machine)?;
        self.poller.want_write(&self.link, !sent)?;
        for _ in 0..ROUNDS {
            if !self.link.fill(&mut self.machine, &mut self.buffer)? {
                break;
            }
        }
        Ok(())
    }

    /// The oldest reply: its request's ticket, and its payload ([`reply`](super::reply) understands it) or the error.
    pub fn take_reply(&mut self) -> Option<(Ticket, Result<Vec<u8>, Errno>)> {
        self.machine.take_reply()
    }

    /// The oldest watch event.
    pub fn take_event(&mut self) -> Option<WatchEvent> {
        self.machine.take_event()
    }

    /// Why the connection is lost, where it is.
    #[must_use]
    pub fn lost(&self) -> Option<Lost> {
        self.lost
    }

    /// Connects again to where it was connected, once the connection is lost (else it does nothing), and asks for all watches
    /// again. Each of them has its first event anew, for nobody knows what happened meanwhile; transactions are gone.
    ///
    /// # Errors
    ///
    /// Where nobody listens there yet: try again later.
    pub fn reconnect(&mut self) -> Result<(), ConnectError> {
        if self.lost.is_none() {
            return Ok(());
        }
        let link = Link::open(&self.path)?;
        self.poller.add(&link).map_err(|source| ConnectError {
            path: self.path.clone(),
            source,
        })?;
        self.link = link;
        self.lost = None;
        self.machine.renew();
        // A loss right now is told by the next call.
        let _ = self.process();
        Ok(())
    }

    /// The watches that the server refused after [`reconnect`](Self::reconnect), with its errors; they are forgotten.
    pub fn take_refused(&mut self) -> Vec<Error> {
        self.machine.take_refused()
    }
}
