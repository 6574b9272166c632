//! A broker's answers: to its back end's requests, and to its faults.

// UNSAFETY: touches guest memory, so that there is a page to lend.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::AsFd;

use cantle_abi::grant_table::GNTST_okay;
use cantle_abi::{DomId, GrantRef, PAGE_SIZE, SharedMemory};

use super::books::WindowPage;
use super::broker::{Broker, End};
use super::inspect::inspect;
use super::protocol::{
    CopyItem, Items, Kind, MAX_ITEMS, MAX_MESSAGE, MapItem, Mapped, Outgoing, Request, Status,
};
use super::socket;
use super::uffd::{MAX_FAULTS, NotFilled};
use crate::copy::{End as CopyEnd, Pinned, copy_pages, within_page};
use crate::{Access, GrantStatus, Mapping};

/// How often the kernel is asked again for a page that it cannot enter just now.
const ATTEMPTS: u32 = 1000;

impl Broker {
    /// Takes one message and answers it.
    pub(super) fn answer(&mut self) -> Result<(), End> {
        let mut room = [0; MAX_MESSAGE];
        let message = match socket::receive(self.socket.as_fd(), &mut room, false) {
            Ok(Some(message)) => message,
            Ok(None) => return Err(End::Gone),
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::WouldBlock => Ok(()),
                    io::ErrorKind::InvalidData => Err(End::BrokeProtocol),
                    _ => Err(End::Failed(error)),
                };
            }
        };
        let (seq, request) = Request::parse(message).map_err(|_| End::BrokeProtocol)?;
        let reply = match request {
            Request::Confined => {
                self.begin()?;
                Outgoing::new(Kind::CONFINED, seq)
            }
            // It asks for grants before it has shown itself confined.
            _ if !self.serving => return Err(End::BrokeProtocol),
            Request::Map(items) => self.map(seq, items)?,
            Request::Unmap(handles) => self.unmap(seq, handles)?,
            Request::Copy(items) => self.copy(seq, items)?,
        };
        // A back end reads its replies before it asks again; one that lets them pile up is not waited for.
        socket::send(self.socket.as_fd(), reply.as_bytes(), &[], false).map_err(|error| match error
            .kind()
        {
            io::ErrorKind::WouldBlock => End::BrokeProtocol,
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => End::Gone,
            _ => End::Failed(error),
        })
    }

    /// Looks whether the back end is fit to be served.
    fn begin(&mut self) -> Result<(), End> {
        if self.inspects {
            inspect(self.peer.pid(), &self.files, &self.parts()).map_err(End::Unfit)?;
        }
        self.serving = true;
        Ok(())
    }

    fn map(&mut self, seq: u32, items: Items<'_, MapItem>) -> Result<Outgoing, End> {
        let mut replies = Vec::with_capacity(items.count());
        let mut fresh = Vec::with_capacity(items.count());
        for item in items.iter() {
            let reply = match self.pin(&item) {
                Ok((handle, page, first)) => {
                    if first {
                        fresh.extend(self.address_of(page));
                    }
                    Mapped {
                        status: GNTST_okay,
                        window: page.window,
                        handle,
                        page: page.page,
                    }
                }
                Err(status) => Mapped {
                    status: status.0,
                    window: 0,
                    handle: 0,
                    page: 0,
                },
            };
            replies.push(reply);
        }
        fresh.sort_unstable();
        for run in fresh.chunk_by(|a, b| a + PAGE_SIZE as u64 == *b) {
            if let Some(first) = run.first() {
                self.fill(*first, (run.len() * PAGE_SIZE) as u64)?;
            }
        }
        reply(Kind::MAP, seq, replies)
    }

    /// Pins a grant and enters it in the books: its handle, its page, and whether that is new to the back end.
    fn pin(&mut self, item: &MapItem) -> Result<(u32, WindowPage, bool), GrantStatus> {
        let read_only = match item.flags {
            0 => false,
            MapItem::READ_ONLY => true,
            _ => return Err(GrantStatus::GENERAL_ERROR),
        };
        let access = if read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };
        let dom = DomId(item.granter).resolve(self.config.own);
        let found = self.granters.iter().enumerate();
        let mut found = found.filter(|(_, granter)| granter.table.dom() == dom);
        let (number, granter) = found.next().ok_or(GrantStatus::BAD_DOMAIN)?;
        let mapping = Mapping::pin(&granter.table, GrantRef(item.gref), self.config.own, access)?;
        let place = granter.memory.locate(mapping.as_ptr());
        let place = place.ok_or(GrantStatus::BAD_PAGE)?;
        let mut windows = self.windows.iter().zip(0..);
        let (_, window) = windows
            .find(|(window, _)| window.granter == number && window.file == place.file)
            .ok_or(GrantStatus::BAD_PAGE)?;
        let page = WindowPage {
            window,
            read_only,
            page: place.page,
        };
        if self.address_of(page).is_none() {
            return Err(GrantStatus::BAD_PAGE);
        }
        // There is a page in the file then, which a hole has not. Its contents are not looked at.
        touch(&mapping);
        let (handle, first) = self
            .books
            .enter(mapping, page)
            .map_err(|_| GrantStatus::NO_SPACE)?;
        Ok((handle, page, first))
    }

    /// Enters lent pages into the back end's page tables. What cannot be entered now is when it is touched.
    fn fill(&self, start: u64, len: u64) -> Result<(), End> {
        let end = start + len;
        let mut at = start;
        let mut attempts = 0;
        while at < end && attempts < ATTEMPTS {
            let Err((done, why)) = self.uffd.fill(at, end - at) else {
                return Ok(());
            };
            at += done;
            match why {
                // It is there already; or the file lost its page again, and the guest finds another when it is touched.
                NotFilled::Occupied | NotFilled::Hole => at += PAGE_SIZE as u64,
                NotFilled::Again => attempts += 1,
                // Its own affair: it has unmapped its windows, or is ending.
                NotFilled::Gone => return Ok(()),
                NotFilled::Failed(errno) => return Err(End::Failed(errno.into())),
            }
        }
        Ok(())
    }

    fn unmap(&mut self, seq: u32, handles: Items<'_, u32>) -> Result<Outgoing, End> {
        let mut statuses = Vec::with_capacity(handles.count());
        // What may go if the page tables say so: place in the reply, address, page, what holds it.
        let mut leaving = Vec::new();
        for handle in handles.iter() {
            let (status, last) = match self.books.leave(handle) {
                Some((mapping, page, true)) => (GNTST_okay, Some((page, mapping))),
                // Another mapping has the page still, so there is nothing to be looked at.
                Some((_, _, false)) => (GNTST_okay, None),
                None => (GrantStatus::BAD_HANDLE.0, None),
            };
            if let Some((page, mapping)) = last {
                let address = self.address_of(page).unwrap_or_default();
                leaving.push((address, statuses.len(), page, mapping));
            }
            statuses.push(status);
        }
        leaving.sort_unstable_by_key(|(address, ..)| *address);
        let addresses: Vec<u64> = leaving.iter().map(|(address, ..)| *address).collect();
        let empty = self.emptied(&addresses);
        for (n, (_, place, page, mapping)) in leaving.into_iter().enumerate() {
            if empty.get(n) == Some(&true) {
                continue;
            }
            // Still reachable, hence still in use; with a place in the books that has just become free.
            if let Some(status) = statuses.get_mut(place) {
                *status = GrantStatus::EAGAIN.0;
            }
            let _ = self.books.enter(mapping, page);
        }
        let statuses = statuses.into_iter().map(|status| Status { status });
        reply(Kind::UNMAP, seq, statuses)
    }

    /// For each page: whether the back end cannot reach it any more, on no CPU. Where that cannot be found out: no.
    fn emptied(&self, addresses: &[u64]) -> Vec<bool> {
        let Ok(empty) = self.pagemap.empty(addresses) else {
            return Vec::new();
        };
        let mut gone = addresses.iter().zip(&empty).filter(|(_, empty)| **empty);
        match gone.next() {
            // One is enough: all of the process's pending flushes are waited for.
            Some((page, _)) if self.peer.flush(*page).is_err() => Vec::new(),
            _ => empty,
        }
    }

    fn copy(&mut self, seq: u32, items: Items<'_, CopyItem>) -> Result<Outgoing, End> {
        let statuses = items.iter().map(|item| Status {
            status: self
                .copy_one(&item)
                .err()
                .map_or(GNTST_okay, |status| status.0),
        });
        reply(Kind::COPY, seq, statuses)
    }

    fn copy_one(&self, item: &CopyItem) -> Result<(), GrantStatus> {
        let write = match item.flags {
            0 => false,
            CopyItem::WRITE => true,
            _ => return Err(GrantStatus::GENERAL_ERROR),
        };
        let len = usize::from(item.len);
        within_page(item.offset, len)?;
        let dom = DomId(item.granter).resolve(self.config.own);
        let mut granters = self.granters.iter();
        let granter = granters
            .find(|granter| granter.table.dom() == dom)
            .ok_or(GrantStatus::BAD_DOMAIN)?;
        let slot = usize::try_from(item.slot).ok();
        let page = slot
            .and_then(|slot| self.bounce.page(slot))
            .ok_or(GrantStatus::BAD_COPY_ARG)?;
        let pinned = Pinned::new(
            &granter.table,
            GrantRef(item.gref),
            self.config.own,
            write,
            item.offset,
            len,
        )?;
        let (lent, own) = (
            CopyEnd::Granted(pinned),
            CopyEnd::Own {
                _table: &granter.table,
                page,
            },
        );
        if write {
            copy_pages(&own, 0, &lent, item.offset, len)?;
        } else {
            copy_pages(&lent, item.offset, &own, 0, len)?;
        }
        lent.count(u64::from(item.len));
        Ok(())
    }

    /// Answers some faults: a lent page is entered (again), for any other the back end pays.
    pub(super) fn answer_faults(&mut self) -> Result<(), End> {
        let mut room = [0; MAX_FAULTS];
        let faults = self.uffd.faults(&mut room).map_err(End::Failed)?;
        for address in faults {
            let address = address & !(PAGE_SIZE as u64 - 1);
            let page = self.page_at(address);
            match page.filter(|page| self.books.is_lent(*page)) {
                Some(page) => self.refill(address, page)?,
                None => self.stray(address)?,
            }
        }
        Ok(())
    }

    /// A lent page was touched that is not in the page table: it was taken out to be moved, swapped or unmapped with another mapping of it.
    fn refill(&self, address: u64, page: WindowPage) -> Result<(), End> {
        for _ in 0..ATTEMPTS {
            match self.uffd.fill(address, PAGE_SIZE as u64) {
                Ok(()) | Err((_, NotFilled::Gone)) => return Ok(()),
                Err((_, NotFilled::Occupied)) => break,
                Err((_, NotFilled::Again)) => {}
                // The file has lost the page: the guest gave it back while it was lent. It finds another there.
                Err((_, NotFilled::Hole)) => self.books.pin_of(page).map_or((), touch),
                Err((_, NotFilled::Failed(errno))) => return Err(End::Failed(errno.into())),
            }
        }
        // It is there; or it is asked for again.
        let _ = self.uffd.wake(address);
        Ok(())
    }

    fn stray(&mut self, address: u64) -> Result<(), End> {
        self.strays = self.strays.saturating_add(1);
        if self.strays > self.config.max_strays {
            return Err(End::Strayed(address));
        }
        self.poison(address)
    }

    fn poison(&self, address: u64) -> Result<(), End> {
        if !self.poisons {
            return Err(End::Strayed(address));
        }
        match self.uffd.poison(address) {
            Ok(()) | Err(NotFilled::Gone) => Ok(()),
            // Poisoned before, by another thread's touch; or the kernel wants to be asked again, as the thread will.
            Err(NotFilled::Occupied | NotFilled::Again | NotFilled::Hole) => {
                let _ = self.uffd.wake(address);
                Ok(())
            }
            Err(NotFilled::Failed(errno)) => Err(End::Failed(errno.into())),
        }
    }
}

/// Reads a byte of a pinned page.
fn touch(mapping: &Mapping) {
    // SAFETY: mapped, in this process, while the mapping lives.
    let _ = unsafe { mapping.as_ptr().as_ptr().read_volatile() };
}

fn reply<T: zerocopy::IntoBytes + zerocopy::Immutable>(
    kind: Kind,
    seq: u32,
    items: impl IntoIterator<Item = T>,
) -> Result<Outgoing, End> {
    let mut out = Outgoing::new(kind, seq);
    // As many as there were in the request.
    for item in items.into_iter().take(MAX_ITEMS) {
        out.push(item).map_err(|_| End::BrokeProtocol)?;
    }
    Ok(out)
}
