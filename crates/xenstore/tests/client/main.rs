//! The clients at a socket: against this crate's own service, and the same against Xen's own daemons.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod daemon;
mod hostile;
mod loss;
mod nonblocking;
mod suite;
mod watching;

use daemon::{Daemon, Kind};

/// What every daemon has to answer alike.
fn agree(kind: Kind) {
    let Some(daemon) = Daemon::start(kind) else {
        return;
    };
    suite::nodes(&daemon);
    suite::requests_at_once(&daemon);
    suite::transactions(&daemon);
    if kind != Kind::Oxenstored {
        // Its reply to a long DIRECTORY is longer than the protocol allows, and it has no DIRECTORY_PART. libxenstore gives up
        // there, too.
        suite::long_directories(&daemon);
    }
    suite::domains_and_control(&daemon);
    suite::threads_share_a_client(&daemon);
    watching::events_come_by_take_event(&daemon);
    watching::iterators_wait_each_for_its_own(&daemon);
    nonblocking::many_requests_are_on_their_way(&daemon);
}

#[test]
fn our_service() {
    agree(Kind::Ours);
}

#[test]
fn xenstored() {
    agree(Kind::Xenstored);
}

#[test]
fn oxenstored() {
    agree(Kind::Oxenstored);
}
