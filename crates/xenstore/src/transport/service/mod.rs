//! The service: one thread that carries bytes between a store and all its clients elsewhere.
//!
//! It is one loop over one epoll. What a round finds is handled as a batch: each connection that has something to say is
//! read once, all of that is handled under one lock of the store, and each connection is answered by one call. No
//! system call is made under the lock.
//!
//! Service is fair: who is ready has one turn in each batch, in the order in which they became ready, and a turn has a
//! bound in bytes and in work. A client that always has something to say delays another by one turn, not by its whole
//! input. A client that does not read what it is sent is not listened to until it does.
//!
//! Before it sleeps the service lingers for 50 µs, as long as that pays: see `linger.rs`. It is one connection's round trip
//! less a wake-up, and several connections' requests that overlap with the answers to others.

mod accept;
mod batch;
mod end;
mod inbox;
mod linger;
mod peer;
mod ring;
mod slots;
mod socket;
mod turn;
mod watched;

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cantle_abi::{DomId, SharedMemory};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::server::{Action, ConnId, ConnKind, ConnMap, Server};
use crate::shared::Shared;
use crate::transport::ring::{Ring, RingFault};
use accept::Listener;
use batch::Batch;
use end::End;
use inbox::Inbox;
use linger::{LINGER, Linger};
use ring::RingEnd;
use slots::{Key, Slot, Slots};
use socket::SocketEnd;

pub use accept::Admit;
pub use peer::Peer;
pub use ring::RingChannel;

/// What is called after a batch was handled and before anything of it leaves: see [`Service::set_before_output`].
pub type BeforeOutput = Box<dyn FnMut(&mut Server) -> io::Result<()> + Send>;

/// Events taken by one call.
const EVENTS: usize = 128;
/// The inbox's signal among the events; no [`Key`] is like it.
const INBOX: u64 = u64::MAX;
/// Listeners among the events count down from here.
const LISTENERS: u64 = u64::MAX - 1;

/// Serves a store to clients elsewhere.
///
/// It lives in a thread of its own that calls [`run_once`](Self::run_once) again and again, or in a loop of the caller's that
/// waits for [`fd`](Self::fd).
pub struct Service {
    store: Shared,
    epoll: OwnedFd,
    inbox: Arc<Inbox>,
    listeners: Vec<Listener>,
    slots: Slots,
    by_conn: ConnMap<Key>,
    queue: VecDeque<Key>,
    batch: Batch,
    left: Vec<Key>,
    watched: Vec<u32>,
    linger: Linger,
    before_output: Option<BeforeOutput>,
    stopped: bool,
    /// Somebody waits for [`fd`](Self::fd).
    embedded: Cell<bool>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("connections", &self.by_conn.len())
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}

/// One of a service's connections, for a hand-over to another process.
#[derive(Debug)]
#[non_exhaustive]
pub enum Served<'a> {
    /// A client at a socket.
    Socket {
        /// The server's name for it.
        conn: ConnId,
        /// The socket.
        fd: BorrowedFd<'a>,
        /// Who is at its other end.
        peer: Peer,
        /// Bytes that were read and that the server has not taken.
        held: &'a [u8],
        /// Bytes that the server has given and that were not sent.
        unsent: &'a [u8],
    },
    /// A guest at its ring. The page's indices are all else that there is to know; see [`Ring::adopt`].
    Ring {
        /// The server's name for it.
        conn: ConnId,
        /// The guest.
        domid: DomId,
        /// Bytes that were taken out of the page and that the server has not taken.
        held: &'a [u8],
        /// Bytes that the server has given and that the page has no room for.
        unsent: &'a [u8],
        /// Why the guest is not served until it asks for a new connection.
        fault: Option<RingFault>,
    },
}

impl Service {
    /// Serves a store, to nobody yet.
    ///
    /// # Errors
    ///
    /// Where the process may open no more files.
    pub fn new(store: Shared) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let inbox = Arc::new(Inbox::new()?);
        epoll::add(
            &epoll,
            inbox.fd(),
            EventData::new_u64(INBOX),
            EventFlags::IN | EventFlags::ET,
        )?;
        Ok(Self {
            store,
            epoll,
            inbox,
            listeners: Vec::new(),
            slots: Slots::default(),
            by_conn: ConnMap::default(),
            queue: VecDeque::new(),
            batch: Batch::new(),
            left: Vec::new(),
            watched: Vec::new(),
            linger: Linger::default(),
            before_output: None,
            stopped: false,
            embedded: Cell::new(false),
        })
    }

    /// The store that is served.
    #[must_use]
    pub fn store(&self) -> &Shared {
        &self.store
    }

    /// Lets clients in that connect to a socket: those that `admit` wants, or all whom the socket's file lets connect. Each
    /// is a privileged client of domain 0, as with every xenstore daemon. See [`listen::bind`](super::listen::bind).
    ///
    /// # Errors
    ///
    /// What the kernel says about the socket.
    pub fn listen(&mut self, listener: UnixListener, admit: Option<Admit>) -> io::Result<()> {
        let listener = Listener::new(listener, admit)?;
        let number = LISTENERS - self.listeners.len() as u64;
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(
            &self.epoll,
            listener.fd(),
            EventData::new_u64(number),
            flags,
        )?;
        self.listeners.push(listener);
        self.inbox.signal();
        Ok(())
    }

    /// Serves a socket that is connected, as a new privileged connection of domain 0.
    ///
    /// # Errors
    ///
    /// What the kernel says about the socket.
    pub fn connect(&mut self, stream: UnixStream) -> io::Result<ConnId> {
        self.join(stream.into())
    }

    /// Serves a socket for a connection that the store has already, after a live update. `unsent` and what else waits for
    /// it is sent, and `held` is taken to be read before anything that comes.
    ///
    /// # Errors
    ///
    /// What the kernel says about the socket.
    pub fn adopt(
        &mut self,
        stream: UnixStream,
        conn: ConnId,
        held: Vec<u8>,
        unsent: Vec<u8>,
    ) -> io::Result<()> {
        let end = End::Socket(SocketEnd::new(stream.into())?);
        let mut slot = Slot::new(conn, end);
        slot.held = held;
        slot.unsent = unsent;
        self.place(slot)
    }

    /// Serves a guest's ring, which was connected or adopted with this service's store; `unsent` is what had no room in it
    /// before a live update. It is looked at at once, in case that the guest has signalled already.
    ///
    /// # Errors
    ///
    /// What the kernel says about the channel's descriptor. The connection has ended then.
    pub fn add_ring<M: SharedMemory + Send + 'static>(
        &mut self,
        ring: Ring<M>,
        unsent: Vec<u8>,
        channel: RingChannel,
    ) -> io::Result<ConnId> {
        let mut parts = ring.into_parts();
        let conn = parts.conn;
        let held = core::mem::take(&mut parts.held);
        let mut slot = Slot::new(conn, End::Ring(RingEnd::new(parts, channel)));
        slot.held = held;
        slot.unsent = unsent;
        self.place(slot)
            .inspect_err(|_| self.store.disconnect(conn))?;
        Ok(conn)
    }

    /// Serves a guest's ring no longer, and drops its page and its channel; whether there was one. The server has forgotten
    /// the domain, or is made to forget its connection.
    pub fn remove_ring(&mut self, domid: DomId) -> bool {
        let found = self.slots.find_ring(domid);
        self.batch.closing.extend(&found);
        self.close_all();
        !found.is_empty()
    }

    /// Sets what is called after each batch of requests was handled, and before any reply to them, any event and anything
    /// else that the store has for its clients leaves: it is where what they did is written down. The store is locked
    /// meanwhile, so that nothing happens between it and the output.
    ///
    /// An error of it stops the service: nothing is sent any more.
    pub fn set_before_output(&mut self, hook: BeforeOutput) {
        self.before_output = Some(hook);
    }

    /// Readable when there is something to do for [`run_once`](Self::run_once), so that this can be part of another loop.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        if !self.embedded.replace(true) {
            // What is left of rounds before this call was not signalled.
            self.inbox.signal();
        }
        self.epoll.as_fd()
    }

    /// Waits for something to do, at most as long as `timeout` says, and does it: one batch. Call it again at once, or when
    /// [`fd`](Self::fd) is readable.
    ///
    /// # Errors
    ///
    /// What the hook of [`set_before_output`](Self::set_before_output) says; the service does nothing any more then. What
    /// goes wrong with one client ends that one's connection and is no error here.
    pub fn run_once(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.stopped {
            return Err(io::Error::other("the xenstore service was stopped"));
        }
        let timeout = if self.has_more() {
            Some(Duration::ZERO)
        } else {
            self.until_retry(timeout)
        };
        self.wait(timeout)?;
        self.accept();
        if !self.queue.is_empty() {
            self.batch().inspect_err(|_| self.stopped = true)?;
        }
        // Who only calls this again needs no signal, which is a system call.
        if self.embedded.get() && self.has_more() {
            self.inbox.signal();
        }
        Ok(())
    }

    /// Whether there is something to do without waiting for it.
    fn has_more(&self) -> bool {
        !self.queue.is_empty() || self.listeners.iter().any(|listener| listener.ready)
    }

    /// The oldest thing that a client asked for and that the server cannot do itself.
    pub fn take_action(&mut self) -> Option<Action> {
        self.store.with(Server::take_action)
    }

    /// The listening sockets, in the order in which they came.
    pub fn listeners(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.iter().map(Listener::fd)
    }

    /// Everybody who is served.
    pub fn connections(&self) -> impl Iterator<Item = Served<'_>> {
        self.slots.iter().map(|slot| match &slot.end {
            End::Ring(ring) => Served::Ring {
                conn: slot.conn,
                domid: ring.domid,
                held: &slot.held,
                unsent: &slot.unsent,
                fault: ring.fault,
            },
            End::Socket(socket) => Served::Socket {
                conn: slot.conn,
                fd: socket.fd(),
                peer: socket.peer,
                held: &slot.held,
                unsent: &slot.unsent,
            },
        })
    }

    fn join(&mut self, socket: OwnedFd) -> io::Result<ConnId> {
        let end = End::Socket(SocketEnd::new(socket)?);
        let conn = self
            .store
            .connect_as(ConnKind::Socket, DomId::DOM0, true, Arc::new(|| ()));
        self.place(Slot::new(conn, end)).inspect_err(|_| {
            self.store.disconnect(conn);
        })?;
        Ok(conn)
    }

    fn place(&mut self, mut slot: Slot) -> io::Result<()> {
        let conn = slot.conn;
        slot.more_output = true;
        slot.readable = true;
        let full = || io::Error::from(io::ErrorKind::QuotaExceeded);
        let key = self.slots.insert(slot).ok_or_else(full)?;
        let Some(slot) = self.slots.get_mut(key) else {
            return Err(full());
        };
        if let Err(error) = slot.end.register(&self.epoll, key) {
            self.slots.remove(key);
            return Err(error);
        }
        batch::enqueue(&mut self.queue, slot, key);
        self.by_conn.insert(conn, key);
        let inbox = Arc::clone(&self.inbox);
        self.store
            .set_waker(conn, Arc::new(move || inbox.leave(key)));
        self.inbox.signal();
        Ok(())
    }

    fn until_retry(&self, timeout: Option<Duration>) -> Option<Duration> {
        let retry = self.listeners.iter().filter_map(Listener::retry_at).min();
        let retry = retry.map(|at| at.saturating_duration_since(Instant::now()));
        match (timeout, retry) {
            (Some(timeout), Some(retry)) => Some(timeout.min(retry)),
            (timeout, retry) => timeout.or(retry),
        }
    }

    /// Waits, and queues those for whom there is something.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENTS];
        if timeout.is_none_or(|timeout| timeout > LINGER) && self.linger.pays() {
            let came = self.comes_soon()?;
            self.linger.learn(came);
        }
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let found = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((found, _)) => found,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        for event in found {
            let (data, flags) = (event.data.u64(), event.flags);
            if data == INBOX {
                self.take_inbox();
                continue;
            }
            if let Some(token) = watched::token(data) {
                self.watched.push(token);
                continue;
            }
            let key = Key::from_u64(data);
            if let Some(slot) = self.slots.get_mut(key) {
                slot.told(flags);
                batch::enqueue(&mut self.queue, slot, key);
            } else if let Some(listener) = usize::try_from(LISTENERS - data)
                .ok()
                .and_then(|number| self.listeners.get_mut(number))
            {
                listener.ready = true;
            }
        }
        Ok(())
    }

    /// Lingers: whether there was anything to do before the time was over.
    fn comes_soon(&self) -> io::Result<bool> {
        let begun = Instant::now();
        loop {
            // An epoll is itself readable where it has something to tell.
            let mut fds = [PollFd::new(&self.epoll, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&Timespec::default())) {
                Ok(0) => {}
                Ok(_) => return Ok(true),
                Err(rustix::io::Errno::INTR) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
            if begun.elapsed() >= LINGER {
                return Ok(false);
            }
        }
    }

    fn take_inbox(&mut self) {
        self.inbox.take(&mut self.left);
        for key in self.left.drain(..) {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.more_output = true;
                batch::enqueue(&mut self.queue, slot, key);
            }
        }
    }

    fn accept(&mut self) {
        let mut found = Vec::new();
        for listener in &mut self.listeners {
            listener.accept(|socket| found.push(socket));
        }
        for socket in found {
            if let Err(error) = self.join(socket) {
                tracing::warn!(%error, "a xenstore client could not be served");
            }
        }
    }

    /// Ends the connections that are listed in the batch.
    fn close_all(&mut self) {
        for key in core::mem::take(&mut self.batch.closing) {
            let Some(slot) = self.slots.remove(key) else {
                continue;
            };
            self.by_conn.remove(&slot.conn);
            self.store.disconnect(slot.conn);
            // Somebody else may hold a copy of the descriptor, whose events would go on.
            let _ = epoll::delete(&self.epoll, slot.end.fd());
        }
        for listener in &mut self.listeners {
            listener.descriptor_freed();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        for conn in self.by_conn.keys() {
            self.store.disconnect(*conn);
        }
    }
}
