//! A server that several threads use.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cantle_abi::{DomId, Errno};

use crate::client::LocalClient;
use crate::server::{ConnId, ConnKind, ConnMap, Server, Subtree};

/// Called when something waits for a connection. It may only leave a signal: it is called from whatever thread changed the
/// store, and must not call the store itself.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// A [`Server`] behind a lock, for everybody in this process who has to do with it. Clones are the same store.
///
/// One party's request can queue something for another: a back end writes its state, and a guest's watch fires. Each
/// connection therefore has a [`Waker`], called after the lock is released.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Inner>>);

struct Inner {
    server: Server,
    wakers: ConnMap<Waker>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new(Server::new())
    }
}

impl Shared {
    /// Shares a server.
    #[must_use]
    pub fn new(server: Server) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            server,
            wakers: ConnMap::default(),
        })))
    }

    /// Does something with the server, and wakes those for whom it left something.
    pub fn with<R>(&self, act: impl FnOnce(&mut Server) -> R) -> R {
        self.with_except(None, act)
    }

    /// As [`with`](Self::with), without waking `own`: whoever is about to look anyway.
    pub(crate) fn with_except<R>(
        &self,
        own: Option<ConnId>,
        act: impl FnOnce(&mut Server) -> R,
    ) -> R {
        self.batch(|server, others| {
            let result = act(server);
            let ready = server.take_ready();
            others.extend(ready.into_iter().filter(|conn| Some(*conn) != own));
            result
        })
    }

    /// Does something with the server, and wakes those that `act` leaves in its list. It is for `act` to take the server's
    /// [`take_ready`](Server::take_ready), and to keep back those that the caller looks after itself.
    pub(crate) fn batch<R>(&self, act: impl FnOnce(&mut Server, &mut Vec<ConnId>) -> R) -> R {
        let mut inner = self.lock();
        let mut others = Vec::new();
        let result = act(&mut inner.server, &mut others);
        let wakers: Vec<Waker> = others
            .iter()
            .filter_map(|conn| inner.wakers.get(conn).map(Arc::clone))
            .collect();
        drop(inner);
        for wake in wakers {
            wake();
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection from within this process, and its waker.
    pub fn connect(&self, domid: DomId, privileged: bool, waker: Waker) -> ConnId {
        self.connect_as(ConnKind::InProcess, domid, privileged, waker)
    }

    /// A new connection of a kind, and its waker: see [`Server::connect_as`].
    pub fn connect_as(
        &self,
        kind: ConnKind,
        domid: DomId,
        privileged: bool,
        waker: Waker,
    ) -> ConnId {
        let mut inner = self.lock();
        let conn = inner.server.connect_as(kind, domid, privileged);
        inner.wakers.insert(conn, waker);
        conn
    }

    /// Gives a connection a waker, in place of the one that it had. What waits for it already is not told to the new one.
    pub fn set_waker(&self, conn: ConnId, waker: Waker) {
        self.lock().wakers.insert(conn, waker);
    }

    /// A connection took another's place, and its waker.
    pub(crate) fn move_waker(&self, old: ConnId, new: ConnId) {
        let wakers = &mut self.lock().wakers;
        if let Some(waker) = wakers.remove(&old) {
            wakers.insert(new, waker);
        }
    }

    /// Ends a connection; its waker is called no more once this has returned, but for calls that have begun.
    pub fn disconnect(&self, conn: ConnId) {
        self.with(|server| server.disconnect(conn));
        self.lock().wakers.remove(&conn);
    }

    /// A client for a domain in this process. Domain 0 is privileged.
    ///
    /// # Errors
    ///
    /// Where the process may open no more files.
    pub fn client(&self, domid: DomId) -> io::Result<LocalClient> {
        LocalClient::new(self.clone(), domid, domid == DomId::DOM0)
    }

    /// Makes a domain known: see [`Server::introduce`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn introduce(&self, domid: DomId) -> Result<bool, Errno> {
        self.with(|server| server.introduce(domid))
    }

    /// A domain is gone: see [`Server::release`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn release(&self, domid: DomId) -> Result<(), Errno> {
        self.with(|server| server.release(domid))
    }

    /// Captures a subtree: see [`Server::capture`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn capture(&self, path: &str) -> Result<Subtree, Errno> {
        self.with(|server| server.capture(path))
    }

    /// Puts a captured subtree elsewhere: see [`Server::graft`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn graft(
        &self,
        path: &str,
        subtree: &Subtree,
        domains: &[(DomId, DomId)],
    ) -> Result<(), Errno> {
        self.with(|server| server.graft(path, subtree, domains))
    }
}
