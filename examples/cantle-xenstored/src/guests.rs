//! The guests' rings: the VMMs that introduce them, and what is kept of each.
//!
//! A VMM's connection is what its guests hang on: when it is gone, they are released.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cantle_abi::{DomId, Errno};
use cantle_xenstore::Service;
use cantle_xenstore::server::ConnId;
use cantle_xenstore::transport::Ring;
use cantle_xenstore::transport::attach::{
    Descriptors, Introduction, Order, ReceiveError, RingPage, VmmSocket,
};
use cantle_xenstore::transport::service::RingChannel;
use rustix::net::SocketFlags;

/// Tokens of VMMs' connections begin here; smaller ones are the daemon's own.
pub(crate) const FIRST_VMM: u32 = 16;
/// How many orders of one VMM are done before others have a turn.
const ORDERS: usize = 16;
/// How many VMMs may be connected.
const VMMS: usize = 8192;

/// All of them.
#[derive(Debug)]
pub(crate) struct Guests {
    listener: OwnedFd,
    vmms: BTreeMap<u32, VmmSocket>,
    rings: BTreeMap<DomId, GuestRing>,
    next: u32,
    /// Connections that a journal has kept of rings, until their VMMs come back.
    left: BTreeMap<DomId, ConnId>,
    privileged: Option<DomId>,
}

/// What is kept of a ring beside what the service has.
#[derive(Debug)]
pub(crate) struct GuestRing {
    /// The VMM's token.
    pub(crate) vmm: u32,
    pub(crate) about: Introduction,
    pub(crate) fds: Descriptors,
}

impl Guests {
    pub(crate) fn new(listener: OwnedFd, privileged: Option<DomId>) -> Self {
        Self {
            listener,
            vmms: BTreeMap::new(),
            rings: BTreeMap::new(),
            next: FIRST_VMM,
            left: BTreeMap::new(),
            privileged,
        }
    }

    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    pub(crate) fn vmms(&self) -> impl Iterator<Item = (u32, &VmmSocket)> {
        self.vmms.iter().map(|(token, socket)| (*token, socket))
    }

    pub(crate) fn rings(&self) -> impl Iterator<Item = (DomId, &GuestRing)> {
        self.rings.iter().map(|(domid, ring)| (*domid, ring))
    }

    /// Connections that are there without a ring, for VMMs that will come back.
    pub(crate) fn expect(&mut self, left: impl IntoIterator<Item = (DomId, ConnId)>) {
        self.left.extend(left);
    }

    /// Lets in the VMMs that wait.
    pub(crate) fn accept(&mut self, service: &mut Service) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            if let Err(error) = self.admit(service, VmmSocket::new(socket)) {
                tracing::warn!("a VMM is refused: {error:#}");
            }
        }
    }

    /// A VMM's connection, new or handed over; its token.
    pub(crate) fn admit(&mut self, service: &mut Service, socket: VmmSocket) -> Result<u32> {
        ensure!(self.vmms.len() < VMMS, "there are {VMMS} already");
        let token = self.next;
        self.next = token.checked_add(1).context("no number is left for it")?;
        service.watch(&socket, token)?;
        self.vmms.insert(token, socket);
        Ok(token)
    }

    /// Does what a VMM has asked for. `commit` writes down what was changed, before it is acknowledged.
    pub(crate) fn serve(
        &mut self,
        service: &mut Service,
        token: u32,
        commit: &dyn Fn(&Service) -> Result<()>,
    ) -> Result<()> {
        for _ in 0..ORDERS {
            let Some(socket) = self.vmms.get(&token) else {
                return Ok(());
            };
            let order = match socket.receive() {
                Ok(None) => return Ok(()),
                Ok(Some(order)) => order,
                Err(error) => {
                    if !matches!(error, ReceiveError::Closed) {
                        tracing::warn!("a VMM's connection is given up: {error}");
                    }
                    self.lose(service, token);
                    return commit(service);
                }
            };
            let done = self.obey(service, token, order);
            commit(service)?;
            let Some(socket) = self.vmms.get(&token) else {
                return Ok(());
            };
            if socket.answer(done).is_err() {
                self.lose(service, token);
                return commit(service);
            }
        }
        Ok(())
    }

    /// A domain was released by somebody else.
    pub(crate) fn forget(&mut self, service: &mut Service, domid: DomId) {
        self.left.remove(&domid);
        if self.rings.remove(&domid).is_some() {
            service.remove_ring(domid);
        }
    }

    fn obey(&mut self, service: &mut Service, token: u32, order: Order) -> Result<(), Errno> {
        match order {
            Order::Introduce(about, fds) => self.introduce(service, token, about, fds),
            Order::Release(domid) => {
                let theirs = self.rings.get(&domid).is_some_and(|ring| ring.vmm == token);
                if !theirs {
                    return Err(Errno::ENOENT);
                }
                self.release(service, domid);
                Ok(())
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn introduce(
        &mut self,
        service: &mut Service,
        token: u32,
        about: Introduction,
        fds: Descriptors,
    ) -> Result<(), Errno> {
        let domid = about.domid;
        if !domid.is_real() || domid == DomId::DOM0 {
            return Err(Errno::EINVAL);
        }
        if self.rings.contains_key(&domid) {
            return Err(Errno::EEXIST);
        }
        let refused = |why: anyhow::Error| {
            tracing::warn!(%domid, "its ring cannot be served: {why:#}");
            Errno::EINVAL
        };
        let page =
            RingPage::map(&fds.memory, about.offset).map_err(|error| refused(error.into()))?;
        let channel = channel(&fds).map_err(refused)?;
        let store = service.store().clone();
        if about.features != u32::MAX {
            store.with(|server| server.set_features(domid, about.features))?;
        }
        if self.privileged == Some(domid) {
            store.with(|server| server.set_privileged(domid));
        }
        let ring = match self.left.remove(&domid) {
            // It was on its way when the daemon died, but on no message that anybody knows of.
            Some(conn) if !about.interrupted => Ring::adopt(&store, conn, domid, page),
            left => {
                if let Some(conn) = left {
                    store.disconnect(conn);
                }
                Ring::connect(&store, domid, page, Arc::new(|| ()))
            }
        };
        self.place(service, token, about, fds, ring, channel, Vec::new())
            .map_err(refused)?;
        let introduced = store.introduce(domid)?;
        tracing::info!(%domid, again = !introduced, interrupted = about.interrupted, "a ring is served");
        Ok(())
    }

    /// Serves a ring, new or handed over.
    #[expect(
        clippy::too_many_arguments,
        reason = "all that there is to know of a ring"
    )]
    pub(crate) fn place(
        &mut self,
        service: &mut Service,
        vmm: u32,
        about: Introduction,
        fds: Descriptors,
        mut ring: Ring<RingPage>,
        channel: RingChannel,
        unsent: Vec<u8>,
    ) -> Result<()> {
        if about.interrupted {
            ring.interrupt();
        }
        service.add_ring(ring, unsent, channel)?;
        self.rings
            .insert(about.domid, GuestRing { vmm, about, fds });
        Ok(())
    }

    /// A VMM is gone, and with it its guests.
    fn lose(&mut self, service: &mut Service, token: u32) {
        if let Some(socket) = self.vmms.remove(&token) {
            // It is closed now; somebody else may hold a copy.
            let _ = service.unwatch(&socket);
        }
        let theirs = self.rings.iter().filter(|(_, ring)| ring.vmm == token);
        let theirs: Vec<DomId> = theirs.map(|(domid, _)| *domid).collect();
        for domid in theirs {
            self.release(service, domid);
        }
    }

    fn release(&mut self, service: &mut Service, domid: DomId) {
        self.forget(service, domid);
        // Refused for domain 0 only, which has no ring here.
        let _ = service.store().release(domid);
        tracing::info!(%domid, "released by its VMM");
    }
}

/// The service's end of a guest's event channel. Both descriptors have to be eventfds, since others could be made to wait for.
pub(crate) fn channel(fds: &Descriptors) -> Result<RingChannel> {
    for fd in [&fds.wake, &fds.notify] {
        let name =
            rustix::fs::readlinkat(rustix::fs::CWD, descriptor_path(fd.as_fd()), Vec::new())?;
        ensure!(
            name.to_bytes() == b"anon_inode:[eventfd]",
            "a descriptor is no eventfd"
        );
        rustix::io::ioctl_fionbio(fd, true)?;
    }
    let notify = fds.notify.try_clone()?;
    Ok(RingChannel {
        signal: fds.wake.try_clone()?,
        notify: Box::new(move || {
            // It fails only where the guest has ignored it so often that it is signalled for ever.
            let _ = rustix::io::write(&notify, &1u64.to_ne_bytes());
        }),
    })
}

/// A path by which a descriptor's file is found again.
pub(crate) fn descriptor_path(fd: impl std::os::fd::AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The socket at which VMMs introduce guests.
pub(crate) fn listen(path: &std::path::Path) -> Result<OwnedFd> {
    match cantle_xenstore::transport::listen::bind_for_vmms(path) {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            anyhow::bail!(
                "{} is served by another daemon, or is no socket",
                path.display()
            )
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen at {}", path.display())),
    }
}
