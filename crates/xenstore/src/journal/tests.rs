//! The journal on a disk that stops, or fails, at any step.
//!
//! A short history of changes is written down, with compactions. It is done again and again: each time the disk stops at another of the
//! primitive calls, and within writes after every number of bytes. What is there then must be the state after the last batch that was acknowledged,
//! or after the one that was being written, and the folder must be good for the rest of the history.
//!
//! What a process leaves when it is killed is everything that it has written. After a loss of power with [`Options::sync`] it is what was
//! waited for, and more or less of the rest.

mod faulty;

use std::path::Path;
use std::sync::Arc;

use cantle_abi::DomId;
use cantle_abi::io::xs_wire::*;

use super::*;
use crate::client::TxId;
use crate::server::{ConnId, ConnKind};
use crate::state::own::Own;
use crate::state::{Conn, Reader, Record};
use faulty::{Fault, Faulty, Left};

/// One request: whether domain 5's ring asks it, or domain 0.
type Step = (bool, XsType, String);

/// What is done between two calls of `append`: requests, perhaps in one transaction.
#[derive(Debug)]
struct Batch {
    transaction: bool,
    steps: Vec<Step>,
}

fn history(mut seed: u64, len: usize) -> Vec<Batch> {
    let mut random = |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % bound
    };
    let mut batches = vec![Batch {
        transaction: false,
        steps: vec![
            (false, XS_INTRODUCE, "5\x0077\x009\0".into()),
            (true, XS_WATCH, "x\0first\0".into()),
        ],
    }];
    batches.extend((1..len).map(|number| {
        let steps = (0..=random(3)).map(|_| {
            let node = format!("/n{}/m{}", random(3), random(3));
            match random(14) {
                0..=5 => (false, XS_WRITE, format!("{node}\0{number}")),
                6 => (false, XS_RM, format!("{node}\0")),
                7 => (false, XS_RM, format!("/n{}\0", random(3))),
                8 => (true, XS_WATCH, format!("{node}\0t\0")),
                9 => (true, XS_UNWATCH, format!("{node}\0t\0")),
                10 => (false, XS_INTRODUCE, "7\x0078\x0010\0".into()),
                11 => (false, XS_SET_QUOTA, format!("watches\0{}\0", 9 + random(9))),
                12 => (
                    false,
                    XS_SET_QUOTA,
                    format!("5\0watches\0{}\0", 9 + random(9)),
                ),
                _ => (false, XS_RELEASE, "7\0".into()),
            }
        });
        let steps: Vec<Step> = steps.collect();
        let nodes = steps
            .iter()
            .all(|(_, op, _)| matches!(*op, XS_WRITE | XS_RM));
        Batch {
            transaction: nodes && random(2) == 0,
            steps,
        }
    }));
    batches
}

fn connections(server: &mut Server, restored: &[crate::server::RestoredConn]) -> [ConnId; 2] {
    let ring = restored
        .iter()
        .find(|known| matches!(known.by, Conn::Ring { domid, .. } if domid == DomId(5)));
    [
        server.connect_socket(),
        ring.map_or_else(
            || server.connect_as(ConnKind::Ring, DomId(5), false),
            |known| known.conn,
        ),
    ]
}

fn change(server: &mut Server, [dom0, ring]: [ConnId; 2], batch: &Batch) {
    let mut tx = TxId::NONE;
    if batch.transaction {
        let id = server
            .request(dom0, XS_TRANSACTION_START, tx, b"\0")
            .unwrap();
        let id = String::from_utf8(id).unwrap();
        tx = TxId(id.trim_end_matches('\0').parse().unwrap());
    }
    for (by_ring, op, payload) in &batch.steps {
        let conn = if *by_ring { ring } else { dom0 };
        // What is not there cannot be removed.
        let _ = server.request(conn, *op, tx, payload.as_bytes());
    }
    if batch.transaction {
        server
            .request(dom0, XS_TRANSACTION_END, tx, b"T\0")
            .unwrap();
    }
    while server.take_action().is_some() {}
}

/// Everything that a journal keeps, but for numbers.
fn state(server: &Server) -> Vec<String> {
    let mut stream = Vec::new();
    server.checkpoint().unwrap().write(&mut stream).unwrap();
    Reader::new(&stream)
        .unwrap()
        .map(Result::unwrap)
        .filter(|record| !matches!(record, Record::Own(Own::Server(_) | Own::Generations(_))))
        .map(|record| format!("{record:?}"))
        .collect()
}

/// The states before the history and after each batch.
fn states(history: &[Batch]) -> Vec<Vec<String>> {
    let mut server = Server::new();
    let known = connections(&mut server, &[]);
    let mut states = vec![state(&server)];
    for batch in history {
        change(&mut server, known, batch);
        states.push(state(&server));
    }
    states
}

fn journal(disk: &Faulty, sync: bool) -> Result<(Journal, Option<Restored>), JournalError> {
    let options = Options {
        sync,
        compact_at: 700,
    };
    let disk = Arc::new(disk.clone());
    Journal::on(disk, Path::new("folder"), options, true, None)
}

/// Goes through a part of the history; how many batches of it were acknowledged at last, and were tried.
fn live(disk: &Faulty, sync: bool, history: &[Batch]) -> (usize, usize) {
    let mut server = Server::new();
    let known = connections(&mut server, &[]);
    let Ok((mut journal, None)) = journal(disk, sync) else {
        panic!("the folder is empty");
    };
    let mut acknowledged = 0;
    for (number, batch) in (1..).zip(history) {
        change(&mut server, known, batch);
        if journal.append(&mut server).is_ok() {
            // If the disk has stopped, then in a compaction: that is not waited for.
            acknowledged = number;
        }
        if disk.stopped() {
            return (acknowledged, number);
        }
    }
    (acknowledged, history.len())
}

/// What is left on a disk is what was acknowledged, and can be gone on with.
fn comes_back(
    disk: &Faulty,
    sync: bool,
    history: &[Batch],
    states: &[Vec<String>],
    (acknowledged, tried): (usize, usize),
    what: &dyn std::fmt::Debug,
) {
    let (mut journal, restored) = match journal(disk, sync) {
        Ok(opened) => opened,
        Err(error) => panic!("{what:?}: {error:?}\n{disk:?}"),
    };
    let (mut server, known, at) = match restored {
        None => {
            assert_eq!(acknowledged, 0, "{what:?}: nothing is left");
            let mut server = Server::new();
            let known = connections(&mut server, &[]);
            (server, known, 0)
        }
        Some(restored) => {
            let mut server = restored.server;
            let found = state(&server);
            // Before anything was acknowledged the whole state is written, again and again until it is there.
            let last = if acknowledged == 0 {
                tried
            } else {
                acknowledged + 1
            };
            let at = (acknowledged..=last.min(tried)).find(|at| states[*at] == found);
            let Some(at) = at else {
                panic!(
                    "{what:?}: {acknowledged} of {tried} were acknowledged; there is\n{found:#?}\nnot\n{:#?}",
                    states[acknowledged]
                );
            };
            let known = connections(&mut server, &restored.connections);
            let check = server.request(known[0], XS_CONTROL, TxId::NONE, b"check\0");
            assert_eq!(check.as_deref(), Ok(&b"OK\0"[..]), "{what:?}");
            (server, known, at)
        }
    };
    for batch in &history[at..] {
        change(&mut server, known, batch);
        journal.append(&mut server).unwrap();
    }
    drop(journal);
    if at < history.len() {
        let (_, restored) = self::journal(disk, sync).unwrap();
        assert_eq!(&state(&restored.unwrap().server), states.last().unwrap());
    }
}

/// How many bytes of a write are done, of those that are worth a try.
fn torn(len: usize, all: bool) -> Vec<usize> {
    if all && len <= 300 {
        return (0..=len).collect();
    }
    let mut torn = vec![0, 1, 15, 16, 17, 24, len / 2, len.saturating_sub(1), len];
    torn.retain(|torn| *torn <= len);
    torn.sort_unstable();
    torn.dedup();
    torn
}

/// The lengths of the writes among the calls of a history without a fault, and 0 for the other calls.
fn calls(sync: bool, history: &[Batch], states: &[Vec<String>]) -> Vec<usize> {
    let disk = Faulty::default();
    let done = live(&disk, sync, history);
    assert_eq!(done, (history.len(), history.len()));
    assert!(disk.renames() > 2, "there were compactions");
    let calls = disk.calls();
    comes_back(&disk, sync, history, states, done, &"without a fault");
    calls
}

#[test]
fn a_process_that_stops_at_any_call_has_lost_nothing() {
    for seed in 0..6 {
        let history = history(seed, 25);
        let states = states(&history);
        for (call, len) in calls(false, &history, &states).into_iter().enumerate() {
            for torn in torn(len, true) {
                let disk = Faulty::with([(call, Fault::Stop { torn })]);
                let done = live(&disk, false, &history);
                disk.start_again(Left::All);
                comes_back(&disk, false, &history, &states, done, &(seed, call, torn));
            }
        }
    }
}

#[test]
fn a_machine_without_power_has_what_was_waited_for() {
    for seed in 0..3 {
        let history = history(seed, 25);
        let states = states(&history);
        for (call, len) in calls(true, &history, &states).into_iter().enumerate() {
            for torn in torn(len, false) {
                for left in Left::EACH {
                    let disk = Faulty::with([(call, Fault::Stop { torn })]);
                    let done = live(&disk, true, &history);
                    disk.start_again(left);
                    comes_back(
                        &disk,
                        true,
                        &history,
                        &states,
                        done,
                        &(seed, call, torn, left),
                    );
                }
            }
        }
    }
}

/// A full disk, say: one call fails, and later the process is killed.
#[test]
fn a_call_that_fails_harms_no_other() {
    for sync in [false, true] {
        let history = history(9, 20);
        let states = states(&history);
        let calls = calls(sync, &history, &states);
        for (first, len) in calls.iter().enumerate() {
            let mut failed = torn(*len, false);
            failed.pop();
            failed.push(0);
            for torn in failed {
                let fault = (first, Fault::Fail { torn });
                let disk = Faulty::with([fault]);
                let done = live(&disk, sync, &history);
                let lens = disk.calls();
                disk.start_again(Left::All);
                comes_back(&disk, sync, &history, &states, done, &fault);
                if torn > 1 {
                    continue;
                }
                for (second, len) in lens.into_iter().enumerate().skip(first + 1) {
                    let stop = (second, Fault::Stop { torn: len / 2 });
                    let disk = Faulty::with([fault, stop]);
                    let done = live(&disk, sync, &history);
                    let left = if sync { Left::WaitedFor } else { Left::All };
                    disk.start_again(left);
                    comes_back(&disk, sync, &history, &states, done, &(fault, stop));
                }
            }
        }
    }
}
