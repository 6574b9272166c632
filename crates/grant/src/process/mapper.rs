//! Granted pages for a back end in a process of its own.

// UNSAFETY: hands out pages of windows, gives them back, and copies through memory that two processes share.
#![expect(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use cantle_abi::grant_table::GNTST_okay;
use cantle_abi::{DomId, GrantRef, PAGE_SIZE};
use rustix::mm::{Advice, madvise};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::bounce::Bounce;
use super::protocol::{
    self, BadMessage, CopyItem, Items, Kind, MAX_ITEMS, MAX_MESSAGE, MapItem, Mapped, Outgoing,
    Status,
};
use super::setup::{Setup, SetupError, Window};
use super::socket;
use super::uffd::Uffd;
use crate::copy::within_page;
use crate::{Access, CopyPiece, GrantMapper, GrantStatus, Local, MappedPage, Mapping, Mappings};

/// A [`GrantMapper`] for a back end in a process of its own: asks the broker by a socket, and reaches pages through the process's windows.
///
/// A mapped page is the guest's own, without a copy. Copies go through a buffer shared with the broker, which costs less than a change of page
/// tables. Each call is one message there and one back; a batch is one for [`MAX_ITEMS`] pages. After the broker's end
/// nothing more is mapped or copied ([`GrantStatus::GENERAL_ERROR`]); what is mapped stays so.
#[derive(Clone)]
pub struct ProcessMapper(Arc<Link>);

/// The connection.
struct Link {
    socket: OwnedFd,
    windows: Vec<Window>,
    /// Kept open, so that the windows stay closed: see the module's text.
    _uffd: Uffd,
    exchange: Mutex<Exchange>,
}

/// What one exchange of messages uses.
struct Exchange {
    seq: u32,
    bounce: Bounce,
}

// SAFETY: the windows' addresses are only handed out; who gets them takes care.
unsafe impl Send for Link {}
// SAFETY: as above; the rest is behind a lock, or plain descriptors.
unsafe impl Sync for Link {}

impl ProcessMapper {
    /// Asks the broker to serve this process.
    pub(super) fn begin(setup: Setup) -> Result<Self, SetupError> {
        let link = Link {
            socket: setup.socket,
            windows: setup.windows,
            _uffd: setup.uffd,
            exchange: Mutex::new(Exchange {
                seq: 0,
                bounce: setup.bounce,
            }),
        };
        link.with(|exchange| link.ask::<u32, u32>(exchange, Kind::CONFINED, &[], |_| ()))
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => SetupError::Refused,
                _ => SetupError::Socket(error),
            })?;
        Ok(Self(Arc::new(link)))
    }

    /// Where a reply says that a page is.
    fn page(&self, reply: &Mapped, access: Access) -> Result<NonNull<u8>, GrantStatus> {
        if reply.status != GNTST_okay {
            return Err(GrantStatus(reply.status));
        }
        let window = self.0.windows.get(usize::from(reply.window));
        window
            .and_then(|window| window.page(reply.page, access == Access::ReadOnly))
            .ok_or(GrantStatus::GENERAL_ERROR)
    }

    /// Asks for up to [`MAX_ITEMS`] pages, and gives each reply to `take`; not at all where the broker does not answer.
    fn ask_for(
        &self,
        granter: DomId,
        wanted: &[(GrantRef, Access)],
        take: impl FnMut(Mapped),
    ) -> io::Result<()> {
        let items: Vec<MapItem> = wanted
            .iter()
            .map(|(gref, access)| MapItem {
                granter: granter.0,
                flags: u16::from(*access == Access::ReadOnly) * MapItem::READ_ONLY,
                gref: gref.0,
            })
            .collect();
        let link = &self.0;
        link.with(|exchange| {
            link.ask(exchange, Kind::MAP, &items, |reply: Items<'_, Mapped>| {
                reply.iter().for_each(take);
            })
        })
    }

    /// Copies up to [`MAX_ITEMS`] pieces.
    fn copy_some(&self, pieces: &mut [CopyPiece<'_>]) {
        let link = &self.0;
        let done: io::Result<()> = link.with(|exchange| {
            let mut items = Vec::with_capacity(pieces.len());
            // Which piece an item is for.
            let mut asked = Vec::with_capacity(pieces.len());
            for (n, piece) in pieces.iter_mut().enumerate() {
                piece.status = Ok(());
                if piece.local.is_empty() {
                    continue;
                }
                let len = within_page(piece.offset, piece.local.len()).and_then(|()| {
                    u16::try_from(piece.local.len()).map_err(|_| GrantStatus::BAD_COPY_ARG)
                });
                let len = match len {
                    Ok(len) => len,
                    Err(status) => {
                        piece.status = Err(status);
                        continue;
                    }
                };
                let slot = items.len();
                let source = piece.local.source();
                if let Some(bytes) = source
                    && let Some(to) = exchange.bounce.page(slot)
                {
                    // SAFETY: at most a page, into a page of the buffer, which is nobody's page; another party may write the bytes
                    // meanwhile, and what arrives is then a mixture.
                    unsafe {
                        to.as_ptr()
                            .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
                    };
                }
                items.push(CopyItem {
                    granter: piece.granter.0,
                    flags: u16::from(source.is_some()) * CopyItem::WRITE,
                    gref: piece.gref.0,
                    offset: piece.offset,
                    len,
                    slot: u32::try_from(slot).unwrap_or(u32::MAX),
                });
                asked.push(n);
            }
            if items.is_empty() {
                return Ok(());
            }
            let mut statuses = Vec::new();
            link.ask(exchange, Kind::COPY, &items, |reply: Items<'_, Status>| {
                statuses.extend(reply.iter().map(|item| item.status));
            })?;
            for (slot, (status, n)) in statuses.into_iter().zip(asked).enumerate() {
                let Some(piece) = pieces.get_mut(n) else {
                    continue;
                };
                if status != GNTST_okay {
                    piece.status = Err(GrantStatus(status));
                } else if let Local::Into(buffer) = &mut piece.local
                    && let Some(from) = exchange.bounce.page(slot)
                {
                    // SAFETY: at most a page, out of a page of the buffer; the broker may write there meanwhile, and what arrives is then
                    // a mixture of bytes.
                    unsafe {
                        from.as_ptr()
                            .copy_to_nonoverlapping(buffer.as_mut_ptr(), buffer.len())
                    };
                }
            }
            Ok(())
        });
        if done.is_err() {
            let with_bytes = pieces.iter_mut().filter(|piece| !piece.local.is_empty());
            with_bytes.for_each(|piece| piece.status = Err(GrantStatus::GENERAL_ERROR));
        }
    }
}

impl GrantMapper for ProcessMapper {
    fn map(&self, granter: DomId, gref: GrantRef, access: Access) -> Result<Mapping, GrantStatus> {
        let mut mapped = Err(GrantStatus::GENERAL_ERROR);
        let _ = self.ask_for(granter, &[(gref, access)], |reply| {
            mapped = self.page(&reply, access).map(|page| {
                let loan = Loan {
                    link: self.0.clone(),
                    granter,
                    page,
                    handle: reply.handle,
                };
                Mapping::of_loan(loan, gref, access)
            });
        });
        mapped
    }

    fn map_all(&self, granter: DomId, wanted: &[(GrantRef, Access)]) -> Mappings {
        let mut pages = Vec::with_capacity(wanted.len());
        let mut loans = Loans {
            link: self.0.clone(),
            granter,
            pages: Vec::with_capacity(wanted.len()),
        };
        for some in wanted.chunks(MAX_ITEMS) {
            let mut each = some.iter();
            let asked = self.ask_for(granter, some, |reply| {
                let Some(&(gref, access)) = each.next() else {
                    return;
                };
                let page = self.page(&reply, access);
                loans.pages.extend(page.map(|page| (page, reply.handle)));
                pages.push(page.map(|page| MappedPage::lent(page, gref, access)));
            });
            if asked.is_err() {
                pages.extend(some.iter().map(|_| Err(GrantStatus::GENERAL_ERROR)));
            }
        }
        Mappings::of_loans(pages, loans)
    }

    fn copy(&self, pieces: &mut [CopyPiece<'_>]) {
        for pieces in pieces.chunks_mut(MAX_ITEMS) {
            self.copy_some(pieces);
        }
    }
}

impl Link {
    /// One exchange at a time.
    fn with<T>(&self, exchange: impl FnOnce(&mut Exchange) -> T) -> T {
        let mut guard = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        exchange(&mut guard)
    }

    /// Sends a request and gives its reply to `take`: as many items as were sent, or none of them.
    fn ask<Q: IntoBytes + Immutable + Copy, A: FromBytes>(
        &self,
        exchange: &mut Exchange,
        kind: Kind,
        items: &[Q],
        take: impl FnOnce(Items<'_, A>),
    ) -> io::Result<()> {
        exchange.seq = exchange.seq.wrapping_add(1);
        let mut out = Outgoing::new(kind, exchange.seq);
        for item in items {
            out.push(*item).map_err(invalid)?;
        }
        socket::send(self.socket.as_fd(), out.as_bytes(), &[], true)?;
        let mut room = [0; MAX_MESSAGE];
        let reply = socket::receive(self.socket.as_fd(), &mut room, true)?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let (header, reply) = protocol::parse::<A>(reply).map_err(invalid)?;
        if (header.kind, header.seq, reply.count()) != (kind, exchange.seq, items.len()) {
            return Err(invalid(BadMessage));
        }
        take(reply);
        Ok(())
    }

    /// Empties the pages' entries in this process's page tables, then says so to the broker.
    fn release(&self, pages: &mut [(NonNull<u8>, u32)]) {
        pages.sort_unstable_by_key(|(page, _)| page.addr());
        for run in pages.chunk_by(|(a, _), (b, _)| b.addr().get() - a.addr().get() <= PAGE_SIZE) {
            let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else {
                continue;
            };
            let len = last.addr().get() - first.addr().get() + PAGE_SIZE;
            // SAFETY: pages of a window whose mappings have been given back. Where one is mapped once more, its next touch
            // brings it back.
            let _ = unsafe { madvise(first.as_ptr().cast(), len, Advice::LinuxDontNeed) };
        }
        let handles: Vec<u32> = pages.iter().map(|(_, handle)| *handle).collect();
        // Where the broker does not answer, it has gone, and with it all that was lent.
        let _ =
            self.with(|exchange| self.ask::<u32, Status>(exchange, Kind::UNMAP, &handles, |_| ()));
    }
}

/// A page that is lent, by itself.
pub(crate) struct Loan {
    link: Arc<Link>,
    granter: DomId,
    page: NonNull<u8>,
    handle: u32,
}

impl Loan {
    /// It stays mapped, with the access that was asked for, until the loan is dropped: it is in a window, which is never unmapped;
    /// the broker has entered it, and where it is touched and not there it enters it again.
    pub(crate) fn page(&self) -> NonNull<u8> {
        self.page
    }

    pub(crate) fn granter(&self) -> DomId {
        self.granter
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.link.release(&mut [(self.page, self.handle)]);
    }
}

/// Pages that are lent together, and given back so; of each holds what a [`Loan`] says.
pub(crate) struct Loans {
    link: Arc<Link>,
    granter: DomId,
    pages: Vec<(NonNull<u8>, u32)>,
}

// SAFETY: the addresses are of pages of windows that `link` keeps mapped, and are only told to it; it goes to any thread itself.
unsafe impl Send for Loans {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for Loans {}

impl Loans {
    pub(crate) fn granter(&self) -> DomId {
        self.granter
    }
}

impl Drop for Loans {
    fn drop(&mut self) {
        for pages in self.pages.chunks_mut(MAX_ITEMS) {
            self.link.release(pages);
        }
    }
}

fn invalid(error: BadMessage) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl fmt::Debug for ProcessMapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessMapper")
            .field("socket", &self.0.socket)
            .field("windows", &self.0.windows)
            .finish_non_exhaustive()
    }
}
