//! A client that waits for its replies, for any number of threads.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::XsType;
use rustix::event::PollFlags;

use super::link::{Buffer, ConnectError, Link, Lost, default_path};
use super::machine::{Machine, Ticket};
use super::poller::Poller;
use super::{Client, Request, TxId, WatchEvent};
use crate::Error;

/// A connection to a xenstore daemon's socket, or to the kernel's device in a guest.
///
/// Threads share it by reference: each waits for its own reply, and requests of several are on their way at once. There is no
/// thread behind it: of those that wait, one reads for all.
///
/// When the daemon is gone, every request fails with [`Errno::EIO`], and [`lost`](Self::lost) says why;
/// [`reconnect`](Self::reconnect) begins anew.
#[derive(Debug)]
pub struct SocketClient {
    path: PathBuf,
    state: Mutex<State>,
    poller: Poller,
    /// Held by the one who connects anew.
    connecting: Mutex<()>,
}

#[derive(Debug)]
struct State {
    link: Arc<Link>,
    machine: Machine,
    /// Somebody reads from the link, without the lock.
    reading: bool,
    buffer: Buffer,
    waiting: HashMap<Ticket, Waiter>,
    /// Who waits for the watches to be set anew.
    renewing: Option<Thread>,
    lost: Option<Lost>,
    /// The loss was told to whoever waits for events.
    told: bool,
}

#[derive(Debug)]
struct Waiter {
    thread: Thread,
    result: Option<Result<Vec<u8>, Errno>>,
}

impl SocketClient {
    /// Connects to where xenstore is for this process: see [`default_path`].
    ///
    /// # Errors
    ///
    /// Where nothing is there, or nobody listens.
    pub fn open() -> Result<Self, ConnectError> {
        Self::connect(&default_path())
    }

    /// Connects to the socket or device at `path`.
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

    pub(super) fn over(link: Link, path: &Path) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(&link)?;
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(State {
                link: Arc::new(link),
                machine: Machine::default(),
                reading: false,
                buffer: Buffer::default(),
                waiting: HashMap::new(),
                renewing: None,
                lost: None,
                told: false,
            }),
            poller,
            connecting: Mutex::new(()),
        })
    }

    /// Where it is connected to; empty for a socket that came connected.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why the connection is lost, where that is known: somebody has to have used it since.
    #[must_use]
    pub fn lost(&self) -> Option<Lost> {
        self.lock().lost
    }

    /// Connects again to where it was connected, once the connection is lost (else it does nothing), and sets all watches
    /// again. Each of them has its first event anew, for nobody knows what happened meanwhile; transactions are gone. Returned are
    /// the watches that the server refused, with its errors; they are forgotten.
    ///
    /// # Errors
    ///
    /// Where nobody listens there yet: try again later.
    pub fn reconnect(&self) -> Result<Vec<Error>, ConnectError> {
        let _only_one = self
            .connecting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.lock().lost.is_none() {
            return Ok(Vec::new());
        }
        let failed = |source| ConnectError {
            path: self.path.clone(),
            source,
        };
        let link = Link::open(&self.path)?;
        self.poller.add(&link).map_err(failed)?;
        let mut state = self.lock();
        state.link = Arc::new(link);
        state.lost = None;
        state.told = false;
        // Who read from the old link will see that it is not this one.
        state.reading = false;
        state.machine.renew();
        state.renewing = Some(thread::current());
        while state.machine.is_renewing() {
            state = self.advance(state);
        }
        state.renewing = None;
        state.hand_over();
        if state.lost.is_some() {
            return Err(failed(io::ErrorKind::ConnectionReset.into()));
        }
        Ok(state.machine.take_refused())
    }

    /// Sends all requests at once, and waits for all replies: they are in the order of the requests. It takes the time of one
    /// round trip, not of many.
    ///
    /// # Errors
    ///
    /// Each has its own.
    pub fn request_all(&self, tx: TxId, requests: &[Request<'_>]) -> Vec<Result<Vec<u8>, Error>> {
        let mut state = self.lock();
        let asked: Vec<_> = requests
            .iter()
            .map(|request| state.ask(request.op(), tx, request.payload()?))
            .collect();
        let mut results = Vec::with_capacity(requests.len());
        for (request, ticket) in requests.iter().zip(asked) {
            let result = match ticket {
                Ok(ticket) => {
                    let (result, after) = self.wait(state, ticket);
                    state = after;
                    result
                }
                Err(errno) => Err(errno),
            };
            results.push(result.map_err(|errno| request.error(errno)));
        }
        state.hand_over();
        results
    }

    /// Waits for one's own reply.
    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        ticket: Ticket,
    ) -> (Result<Vec<u8>, Errno>, MutexGuard<'a, State>) {
        loop {
            match state
                .waiting
                .get(&ticket)
                .map(|waiter| waiter.result.is_some())
            {
                Some(false) => state = self.advance(state),
                Some(true) => {
                    let answer = state
                        .waiting
                        .remove(&ticket)
                        .and_then(|waiter| waiter.result);
                    return (answer.unwrap_or(Err(Errno::EIO)), state);
                }
                // Nobody but this thread removes it.
                None => return (Err(Errno::EIO), state),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what waits, and reads or lets another thread read, until something happened.
    fn advance<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let link = Arc::clone(&state.link);
        let sent = match link.flush(&mut state.machine) {
            Ok(sent) => sent,
            Err(lost) => {
                self.lose(&mut state, lost);
                return state;
            }
        };
        if state.reading {
            drop(state);
            if sent {
                thread::park();
            } else {
                // The reader does not know that there is more to send; and should it leave, this thread reads. That waiting fails,
                // the next call on the link will tell.
                let _ = link.wait(PollFlags::IN | PollFlags::OUT);
            }
            return self.lock();
        }
        state.reading = true;
        let mut buffer = core::mem::take(&mut state.buffer);
        drop(state);
        let received = if sent {
            link.receive(&mut buffer)
        } else {
            link.wait(PollFlags::IN | PollFlags::OUT).map(|()| None)
        };
        state = self.lock();
        if !Arc::ptr_eq(&link, &state.link) {
            return state;
        }
        state.reading = false;
        let outcome = match received {
            Ok(Some(len)) => link.took(&mut state.machine, &buffer, len),
            Ok(None) => link.fill(&mut state.machine, &mut buffer).map(drop),
            Err(errno) => Err(errno.into()),
        };
        state.buffer = buffer;
        match outcome {
            Ok(()) => self.deal_out(&mut state),
            Err(lost) => self.lose(&mut state, lost),
        }
        state
    }

    fn lose(&self, state: &mut State, lost: Lost) {
        if state.lost.is_none() {
            state.lost = Some(lost);
            state.told = false;
            state.machine.lose();
            self.poller.remove(&state.link);
            // Wakes the reader, if another thread is it.
            state.link.shut();
        }
        self.deal_out(state);
    }

    /// Gives replies to those who wait for them, and tells of events.
    fn deal_out(&self, state: &mut State) {
        while let Some((ticket, result)) = state.machine.take_reply() {
            if let Some(waiter) = state.waiting.get_mut(&ticket) {
                waiter.result = Some(result);
                waiter.thread.unpark();
            }
        }
        if let Some(thread) = &state.renewing
            && !state.machine.is_renewing()
        {
            thread.unpark();
        }
        self.flag(state);
    }

    fn flag(&self, state: &State) {
        let lost = state.lost.is_some() && !state.told;
        self.poller.flag(state.machine.has_event() || lost);
    }
}

impl State {
    /// Queues a request of this thread.
    fn ask(&mut self, op: XsType, tx: TxId, payload: &[u8]) -> Result<Ticket, Errno> {
        if self.lost.is_some() {
            return Err(Errno::EIO);
        }
        let ticket = self.machine.request(op, tx, payload)?;
        let waiter = Waiter {
            thread: thread::current(),
            result: None,
        };
        self.waiting.insert(ticket, waiter);
        Ok(ticket)
    }

    /// Lets somebody else read, where nobody does any more.
    fn hand_over(&self) {
        if self.reading {
            return;
        }
        let next = self.waiting.values().find(|waiter| waiter.result.is_none());
        if let Some(thread) = next.map(|waiter| &waiter.thread).or(self.renewing.as_ref()) {
            thread.unpark();
        }
    }
}

impl Client for SocketClient {
    fn request(&self, op: XsType, tx: TxId, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let mut state = self.lock();
        let ticket = state.ask(op, tx, payload)?;
        let (result, state) = self.wait(state, ticket);
        state.hand_over();
        result
    }

    fn take_event(&self) -> Option<WatchEvent> {
        let mut state = self.lock();
        if !state.machine.has_event() && !state.reading && state.lost.is_none() {
            let link = Arc::clone(&state.link);
            let mut buffer = core::mem::take(&mut state.buffer);
            let outcome = link.fill(&mut state.machine, &mut buffer);
            state.buffer = buffer;
            match outcome {
                Ok(_) => self.deal_out(&mut state),
                Err(lost) => self.lose(&mut state, lost),
            }
        }
        let event = state.machine.take_event();
        state.told = event.is_none();
        self.flag(&state);
        event
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.poller.fd()
    }

    fn is_connected(&self) -> bool {
        self.lock().lost.is_none()
    }
}
