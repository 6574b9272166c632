//! The host's side: lends pages to one back end's process.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use cantle_abi::DomId;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::fstat;

use super::books::{Books, WindowPage};
use super::bounce::Bounce;
use super::files::GuestFiles;
use super::inspect::{FileId, Unfit};
use super::peer::{Pagemap, Peer};
use super::protocol::{self, BadMessage, Kind, MAX_MESSAGE, Outgoing, WindowPlace, WindowSize};
use super::socket::{self, MAX_FDS};
use super::uffd::Uffd;
use crate::{GrantTable, Mapping};

/// How long a back end may take to set itself up.
const SETUP_TIME: Duration = Duration::from_secs(10);
/// How long a killed process may take to end before its pages are given up for lost.
const END_TIME: Duration = Duration::from_secs(10);

/// A domain that lends to the back end: its table, and where its memory is kept.
#[derive(Clone)]
pub struct Granter {
    /// The very table: a later domain of the same number is another.
    pub table: Arc<GrantTable>,
    /// The memory that the table's frames are in.
    pub memory: Arc<dyn GuestFiles>,
}

/// How a back end is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerConfig {
    /// The back end's domain: whom it is that the pages must be granted to. The broker's word, never the back end's.
    pub own: DomId,
    /// The most mappings at a time (Xen's `maptrack`).
    pub max_mappings: u32,
    /// What is done about a touch of a page that is not lent.
    pub strays: Strays,
    /// The back end is ended after so many of them.
    pub max_strays: u32,
}

impl BrokerConfig {
    /// The usual one for a back end of this domain.
    #[must_use]
    pub fn new(own: DomId) -> Self {
        Self {
            own,
            max_mappings: 16_384,
            strays: Strays::Poison,
            max_strays: 256,
        }
    }
}

/// What is done about a touch of a page that is not lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strays {
    /// The touch fails: `SIGBUS`, or `EFAULT` for a system call (`UFFDIO_POISON`, from Linux 6.6; on older kernels as `Kill`).
    Poison,
    /// The process is ended.
    Kill,
}

/// Why a back end is not served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// More than 62 files of memory.
    #[error("{0} files of guests' memory are too many")]
    TooManyFiles(usize),
    /// A guest's files cannot be had, or the bounce buffer not made.
    #[error("cannot lend the memory")]
    Memory(#[source] io::Error),
    /// The process has gone, or cannot be watched.
    #[error("cannot watch the process")]
    Process(#[source] io::Error),
    /// The socket failed, or the other end took too long.
    #[error("the back end cannot be reached")]
    Socket(#[source] io::Error),
    /// The back end closed the socket: it could not set itself up.
    #[error("the back end gave up")]
    GaveUp,
    /// What came is not what a back end says.
    #[error(transparent)]
    BadMessage(#[from] BadMessage),
    /// There is something in the page tables already.
    #[error("the windows are not empty")]
    NotEmpty,
}

/// Why serving ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum End {
    /// The descriptor to stop by became readable.
    Stopped,
    /// The back end closed its socket, or has ended.
    Gone,
    /// It is not what it has to be; it was not served.
    Unfit(Unfit),
    /// It broke the protocol.
    BrokeProtocol,
    /// It touched what is not lent to it, so that it had to be ended (with the address).
    Strayed(u64),
    /// The system failed.
    Failed(io::Error),
}

/// A window, as the broker knows it.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) granter: usize,
    pub(super) file: usize,
    pub(super) len: u64,
    pub(super) place: WindowPlace,
}

impl Window {
    /// The window's parts in the other process's address space: for reading and writing, and for reading only.
    fn parts(&self) -> [Range<u64>; 2] {
        [self.place.read_write, self.place.read_only]
            .map(|start| start..start.saturating_add(self.len))
    }
}

/// Lends pages of its [`Granter`]s to one back end's process, and knows what is lent.
///
/// It ends that process when it is dropped, and gives the grants back when the process has ended, not before.
pub struct Broker {
    pub(super) config: BrokerConfig,
    pub(super) granters: Vec<Granter>,
    pub(super) windows: Vec<Window>,
    pub(super) files: Vec<FileId>,
    pub(super) socket: OwnedFd,
    pub(super) uffd: Uffd,
    pub(super) pagemap: Pagemap,
    pub(super) bounce: Bounce,
    pub(super) books: Books<Mapping>,
    pub(super) poisons: bool,
    pub(super) strays: u32,
    pub(super) inspects: bool,
    pub(super) serving: bool,
    /// Last, so that all of the above is there while the process ends.
    pub(super) peer: Peer,
}

impl Broker {
    /// Lends the granters' memory to the process `pid`, a child that its parent has not waited for, which has the other end of the `socket`
    /// ([`socket_pair`](super::socket_pair)) and calls [`Setup::receive`](super::Setup::receive). Waits until it has, at most ten seconds.
    ///
    /// # Errors
    ///
    /// [`StartError`]; the process is ended then.
    pub fn start(
        socket: OwnedFd,
        pid: u32,
        config: BrokerConfig,
        granters: Vec<Granter>,
    ) -> Result<Self, StartError> {
        let peer = Peer::new(pid).map_err(StartError::Process)?;
        Self::handshake(socket, &peer, config, granters)
            .inspect_err(|_| peer.kill())
            .map(|parts| parts.with(peer))
    }

    fn handshake(
        socket: OwnedFd,
        peer: &Peer,
        config: BrokerConfig,
        granters: Vec<Granter>,
    ) -> Result<Parts, StartError> {
        let (bounce, bounce_fd) = Bounce::new().map_err(StartError::Memory)?;
        let mut fds = vec![bounce_fd];
        let mut windows = Vec::new();
        let mut hello = Outgoing::new(Kind::HELLO, 0);
        let mut files = Vec::new();
        for (granter, lender) in granters.iter().enumerate() {
            let own = lender.memory.files().map_err(StartError::Memory)?;
            for (file, guest_file) in own.into_iter().enumerate() {
                let stat = fstat(&guest_file.fd).map_err(|e| StartError::Memory(e.into()))?;
                files.push(FileId {
                    dev: stat.st_dev,
                    ino: stat.st_ino,
                });
                hello.push(WindowSize {
                    len: guest_file.len,
                    granter: lender.table.dom().0,
                    reserved: [0; 3],
                })?;
                windows.push(Window {
                    granter,
                    file,
                    len: guest_file.len,
                    place: WindowPlace {
                        read_write: 0,
                        read_only: 0,
                    },
                });
                fds.push(guest_file.fd);
            }
        }
        if fds.len() >= MAX_FDS {
            return Err(StartError::TooManyFiles(windows.len()));
        }
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        socket::send(socket.as_fd(), hello.as_bytes(), &borrowed, false)
            .map_err(StartError::Socket)?;
        drop(fds);

        socket::set_patience(&socket, Some(SETUP_TIME)).map_err(StartError::Socket)?;
        let mut room = [0; MAX_MESSAGE];
        let (message, fds) = socket::receive_fds(socket.as_fd(), &mut room)
            .map_err(StartError::Socket)?
            .ok_or(StartError::GaveUp)?;
        let (header, places) = protocol::parse::<WindowPlace>(message)?;
        let fds: Result<[OwnedFd; 2], _> = fds.try_into();
        let (Kind::READY, true, Ok([uffd, pagemap])) =
            (header.kind, places.count() == windows.len(), fds)
        else {
            return Err(BadMessage.into());
        };
        let (uffd, pagemap) = (Uffd::from_fd(uffd), Pagemap::new(pagemap));
        let mut poisons = config.strays == Strays::Poison;
        let mut probe = None;
        for (window, place) in windows.iter_mut().zip(places.iter()) {
            window.place = place;
            for part in window.parts() {
                let len = part.end - part.start;
                // Once more, to no effect but to learn what it can do, and that the windows are where they are said to be.
                let can = uffd
                    .register(part.start, len)
                    .map_err(StartError::Process)?;
                poisons &= can.poison;
                let empty = pagemap.all_empty(part.start, len);
                if !empty.map_err(StartError::Process)? {
                    return Err(StartError::NotEmpty);
                }
                probe = Some(part.start);
            }
        }
        // What each unmapping will need: better found missing now.
        if let Some(page) = probe {
            peer.flush(page).map_err(StartError::Process)?;
        }
        Ok(Parts {
            config,
            granters,
            windows,
            files,
            socket,
            uffd,
            pagemap,
            bounce,
            poisons,
        })
    }

    /// Serves a back end that is not confined. It can reach all of its granters' memory if it wants to: for tests that show so.
    #[cfg(any(test, feature = "test-utils"))]
    pub fn trust_unconfined(&mut self) {
        self.inspects = false;
    }

    /// Whether a touch of a page that is not lent fails (`UFFDIO_POISON`); where not, it ends the process.
    #[must_use]
    pub fn poisons(&self) -> bool {
        self.poisons
    }

    /// How many mappings the back end has.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.books.len()
    }

    /// Serves the back end until it ends or `stop` is readable. In the first case, and in all others but [`End::Stopped`],
    /// it has been ended, and all that it had mapped is free, when this returns.
    pub fn serve(&mut self, stop: BorrowedFd<'_>) -> End {
        let end = loop {
            match self.step(stop) {
                Ok(()) => {}
                Err(End::Stopped) => return End::Stopped,
                Err(end) => break end,
            }
        };
        self.finish();
        end
    }

    /// Waits for something to do, and does it. Bounded: a request, and a batch of faults.
    fn step(&mut self, stop: BorrowedFd<'_>) -> Result<(), End> {
        let socket = self.socket.as_fd();
        let mut fds = [
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
            PollFd::from_borrowed_fd(socket, PollFlags::IN),
            PollFd::from_borrowed_fd(self.uffd.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.peer.as_fd(), PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| poll(&mut fds, None)).map_err(|e| End::Failed(e.into()))?;
        let [stopped, asked, faulted, ended] = fds.map(|fd| !fd.revents().is_empty());
        if stopped {
            return Err(End::Stopped);
        }
        if faulted {
            self.answer_faults()?;
        }
        if asked {
            self.answer()?;
        }
        if ended { Err(End::Gone) } else { Ok(()) }
    }

    /// The windows' places, to be compared with what the process has mapped.
    pub(super) fn parts(&self) -> Vec<Range<u64>> {
        self.windows.iter().flat_map(Window::parts).collect()
    }

    /// A page by its address in the other process.
    pub(super) fn page_at(&self, address: u64) -> Option<WindowPage> {
        self.windows.iter().zip(0..).find_map(|(window, number)| {
            let [read_write, read_only] = window.parts();
            let (part, is_read_only) = if read_write.contains(&address) {
                (read_write, false)
            } else if read_only.contains(&address) {
                (read_only, true)
            } else {
                return None;
            };
            Some(WindowPage {
                window: number,
                read_only: is_read_only,
                page: (address - part.start) / cantle_abi::PAGE_SIZE as u64,
            })
        })
    }

    /// Where the other process has a page.
    pub(super) fn address_of(&self, page: WindowPage) -> Option<u64> {
        let window = self.windows.get(usize::from(page.window))?;
        let offset = page.page.checked_mul(cantle_abi::PAGE_SIZE as u64)?;
        let [read_write, read_only] = window.parts();
        let part = if page.read_only {
            read_only
        } else {
            read_write
        };
        (offset < window.len).then(|| part.start + offset)
    }

    /// Ends the process, and gives back what it had when it has ended. Where it does not end, what it had is never given back:
    /// its guests see their pages in use.
    fn finish(&mut self) {
        self.peer.kill();
        let books = std::mem::replace(&mut self.books, Books::new(0));
        if !self.peer.has_ended(END_TIME) {
            std::mem::forget(books);
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A broker without its process.
struct Parts {
    config: BrokerConfig,
    granters: Vec<Granter>,
    windows: Vec<Window>,
    files: Vec<FileId>,
    socket: OwnedFd,
    uffd: Uffd,
    pagemap: Pagemap,
    bounce: Bounce,
    poisons: bool,
}

impl Parts {
    fn with(self, peer: Peer) -> Broker {
        Broker {
            config: self.config,
            granters: self.granters,
            windows: self.windows,
            files: self.files,
            socket: self.socket,
            uffd: self.uffd,
            pagemap: self.pagemap,
            bounce: self.bounce,
            books: Books::new(self.config.max_mappings),
            poisons: self.poisons,
            strays: 0,
            inspects: true,
            serving: false,
            peer,
        }
    }
}

impl std::fmt::Debug for Granter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Granter")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker")
            .field("config", &self.config)
            .field("peer", &self.peer)
            .field("mappings", &self.mappings())
            .finish_non_exhaustive()
    }
}
