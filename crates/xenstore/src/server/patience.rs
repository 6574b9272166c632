//! A transaction that keeps failing gets through in the end.
//!
//! A transaction fails only where another's change was committed meanwhile, so somebody always gets on; but it need not be the
//! same one always. A guest that writes all the time what a large transaction of domain 0 reads would keep that from ever
//! committing (XSA-206). So:
//!
//! 1. When a connection's transaction has failed, the server notes who changes what, and each further failure is put down to
//!    the connection whose change at, above or below the place of the conflict is the newest, if that is another's and
//!    has not been counted before.
//! 2. After [`TRIES`] such failures without a commit, the connection's next transaction *has patience on its side*: as long
//!    as it is open, no request is taken from the connections to which the failures were put down. Their requests wait, as
//!    those do of a client that does not read its replies; nobody else notices.
//!
//! A failure while others wait can only come from somebody who was not among them; he is the next time. So a transaction gets
//! through after at most `TRIES` failures and one for each connection that interferes.
//!
//! What keeps this from being abused:
//!
//! - A privileged connection waits for privileged ones only. A guest cannot hold up domain 0.
//! - A guest waits only where its own changes, one for each of `TRIES` failures, were what the transaction met; transactions
//!   that fail by their own connection's writes, or many that fail by one change, count for nothing or once.
//! - There is one such transaction at a time, and those who wait do so for a bounded time, which is counted in requests
//!   and attempts, since there is no clock here: each request that anybody makes and each offer of bytes that is refused
//!   is one. [`IDLE`] of them without a request of the one who is waited for end it, and in any case [`UNPRIVILEGED`] for a
//!   guest's transaction. One that has used up its time begins to count its failures anew.
//!
//! A client in the same process that calls [`Server::request`](super::Server::request) is never held up: it is the host's
//! own program, and there is nothing that could wait.

use std::collections::VecDeque;
use std::sync::Arc;

use super::conn_map::ConnMap;
use super::{ConnId, Server};
use crate::store::Change;

/// Failures after which a connection is waited for.
pub(super) const TRIES: u32 = 8;
/// How many changes are remembered to put a failure down to one of them.
const RECENT: usize = 256;
/// How many connections a connection's failures are put down to at most.
const OTHERS: usize = 16;
/// What is counted before others need not wait any longer for one who does nothing.
const IDLE: u32 = 8 * 1024;
/// How long others wait for a guest's transaction.
const UNPRIVILEGED: u32 = 8 * 1024;
/// How long others wait for a privileged domain's transaction.
const PRIVILEGED: u32 = 256 * 1024;

#[derive(Debug, Default)]
pub(super) struct Patience {
    /// The connections that have failed since they last committed. While there is none, nothing is noted.
    losing: ConnMap<Losing>,
    recent: VecDeque<Noted>,
    /// Numbers the changes.
    newest: u64,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Noted {
    number: u64,
    path: Arc<str>,
    by: ConnId,
}

#[derive(Debug, Default)]
struct Losing {
    failures: u32,
    /// Up to this change, they have been counted.
    counted: u64,
    others: Vec<ConnId>,
}

/// Some connections wait for a transaction.
#[derive(Debug)]
struct Waiting {
    conn: ConnId,
    tx: u32,
    held: Vec<ConnId>,
    left: u32,
    idle: u32,
}

impl Patience {
    /// Notes what a connection has changed.
    pub(super) fn changed(&mut self, by: ConnId, changes: &[Change]) {
        if self.losing.is_empty() {
            return;
        }
        for change in changes {
            self.newest += 1;
            if self.recent.len() >= RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(Noted {
                number: self.newest,
                path: Arc::clone(&change.path),
                by,
            });
        }
    }

    /// A transaction of the connection failed by what had become of a path.
    pub(super) fn failed(&mut self, conn: ConnId, path: &str) {
        if !self.losing.contains_key(&conn) {
            let counted = self.newest;
            self.losing.insert(
                conn,
                Losing {
                    counted,
                    ..Losing::default()
                },
            );
            return;
        }
        let found = self.recent.iter().rev().find(|noted| {
            let (changed, met) = (noted.path.as_ref(), path);
            is_within(changed, met) || is_within(met, changed)
        });
        if let (Some(losing), Some(noted)) = (self.losing.get_mut(&conn), found)
            && noted.by != conn
            && noted.number > losing.counted
        {
            losing.counted = self.newest;
            losing.failures = losing.failures.saturating_add(1);
            if losing.others.len() < OTHERS && !losing.others.contains(&noted.by) {
                losing.others.push(noted.by);
            }
        }
    }

    fn committed(&mut self, conn: ConnId) {
        self.losing.remove(&conn);
        if self.losing.is_empty() {
            self.recent = VecDeque::new();
        }
    }

    /// Whether a connection's requests are not to be taken now.
    fn holds(&self, conn: ConnId) -> bool {
        self.waiting
            .as_ref()
            .is_some_and(|waiting| waiting.held.contains(&conn))
    }

    /// Counts what somebody does or tries; whether the others have waited for long enough.
    fn is_over(&mut self, conn: ConnId) -> bool {
        let Some(waiting) = &mut self.waiting else {
            return false;
        };
        waiting.left = waiting.left.saturating_sub(1);
        waiting.idle = if waiting.conn == conn {
            IDLE
        } else {
            waiting.idle.saturating_sub(1)
        };
        waiting.left == 0 || waiting.idle == 0
    }
}

/// Whether a path is another or below it.
fn is_within(path: &str, top: &str) -> bool {
    path.strip_prefix(top)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || top == "/")
}

impl Server {
    /// A transaction has begun. Are others to wait for it?
    pub(super) fn begin_patience(&mut self, conn: ConnId, tx: u32) {
        let Some(losing) = self.patience.losing.get(&conn) else {
            return;
        };
        if losing.failures < TRIES || self.patience.waiting.is_some() {
            return;
        }
        let privileged = |conn: &ConnId| {
            let connection = self.connections.get(conn);
            connection.map(|connection| connection.actor.privileged)
        };
        let own = privileged(&conn) == Some(true);
        let may_wait = |other: &ConnId| privileged(other).is_some_and(|other| own || !other);
        let held = losing.others.iter().copied().filter(may_wait).collect();
        tracing::info!(
            ?conn,
            ?held,
            "others wait for a transaction that kept failing"
        );
        self.patience.waiting = Some(Waiting {
            conn,
            tx,
            held,
            left: if own { PRIVILEGED } else { UNPRIVILEGED },
            idle: IDLE,
        });
    }

    /// A transaction has ended, and if it was committed, how.
    pub(super) fn end_patience(&mut self, conn: ConnId, tx: u32, committed: bool) {
        if committed {
            self.patience.committed(conn);
        }
        let waiting = self.patience.waiting.as_ref();
        if waiting.is_some_and(|waiting| waiting.conn == conn && waiting.tx == tx) {
            self.stop_waiting();
        }
    }

    /// A connection is gone, or has no transaction any more.
    pub(super) fn forget_patience(&mut self, conn: ConnId) {
        self.patience.committed(conn);
        let waiting = self.patience.waiting.as_ref();
        if waiting.is_some_and(|waiting| waiting.conn == conn) {
            self.stop_waiting();
        }
    }

    /// Whether a connection's requests are to wait for another's transaction. Asking is counted.
    pub(super) fn is_held(&mut self, conn: ConnId) -> bool {
        if !self.patience.holds(conn) {
            return false;
        }
        self.count_patience(conn);
        self.patience.holds(conn)
    }

    /// Somebody has made a request, or tried to.
    pub(super) fn count_patience(&mut self, conn: ConnId) {
        if self.patience.is_over(conn) {
            if let Some(waiting) = &self.patience.waiting
                && let Some(losing) = self.patience.losing.get_mut(&waiting.conn)
            {
                losing.failures = 0;
                losing.others.clear();
            }
            self.stop_waiting();
        }
    }

    fn stop_waiting(&mut self) {
        let held = self.patience.waiting.take().map(|waiting| waiting.held);
        for conn in held.unwrap_or_default() {
            self.mark_ready(conn);
        }
    }
}
