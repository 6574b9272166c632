//! Does many xenstore transactions over a Linux guest's ring, several of them at any time.
//!
//! `transactions [COUNT]` commits COUNT of them (10,000 unless told otherwise) through `/dev/xen/xenbus`, by eight lanes, each of which has
//! opened it for itself: Linux takes one request at a time from an opener, and puts those of several in the ring together. Each transaction
//! reads a counter, writes it back with one added, and commits. Six lanes have a counter of their own; two share one, and
//! must come in each other's way. In the end every counter is to have grown by exactly the commits that it saw.
//!
//! It prints what it did as `name=value`, and fails where a request was refused, an answer was missing or not the one due,
//! or a counter is wrong.

mod device;
mod lane;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cantle_abi::io::xs_wire::{XS_ERROR, XS_READ, XS_RM, XS_WRITE, XsType};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use device::Device;
use lane::{Lane, Step};

const COUNT: u32 = 10_000;
/// Lanes with a counter of their own, and those that share one: fewer than a guest may have transactions at a time.
const ALONE: u32 = 6;
const SHARING: u32 = 2;
const SHARED: &str = "data/transactions/shared";
/// How long nothing may come, in seconds; the machine may be an emulated one.
const PATIENCE: i64 = 60;

fn main() -> ExitCode {
    let count = match std::env::args().nth(1).map(|count| count.parse()) {
        None => COUNT,
        Some(Ok(count)) => count,
        Some(Err(_)) => {
            eprintln!("usage: transactions [COUNT]");
            return ExitCode::from(2);
        }
    };
    match run(count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// What has come of the transactions.
#[derive(Default)]
struct Counts {
    committed: u32,
    again: u32,
    by_path: BTreeMap<String, u32>,
}

fn run(count: u32) -> Result<(), String> {
    let mut lanes = Vec::new();
    for number in 0..ALONE {
        lanes.push(Lane::new(format!("data/transactions/{number}")).map_err(broken)?);
    }
    for _ in 0..SHARING {
        lanes.push(Lane::new(SHARED.to_owned()).map_err(broken)?);
    }
    let mut device = Device::open().map_err(broken)?;
    for lane in &lanes {
        ask(&mut device, XS_WRITE, &format!("{}\x000", lane.path()))?;
    }
    let begun = Instant::now();
    let counts = commit(&mut lanes, count)?;
    let took = begun.elapsed();
    let mut failed = 0;
    for lane in lanes.iter().take(lanes.len() - 1) {
        let path = lane.path();
        let value = lane::number(&ask(&mut device, XS_READ, &format!("{path}\0"))?)?;
        let due = counts.by_path.get(path).copied().unwrap_or(0);
        if value != due {
            println!("{path} is {value} after {due} commits");
            failed += 1;
        }
    }
    ask(&mut device, XS_RM, "data/transactions\0")?;
    let shared = counts.by_path.get(SHARED).copied().unwrap_or(0);
    println!("transactions_s={}", seconds(took));
    println!("transactions_per_s={:.0}", rate(counts.committed, took));
    println!("transactions_shared={shared}");
    println!("transactions_again={}", counts.again);
    println!("transactions_failed={failed}");
    println!("transactions={}", counts.committed);
    if failed > 0 {
        return Err(format!("{failed} counters are wrong"));
    }
    Ok(())
}

/// Keeps every lane busy until so many transactions are committed.
fn commit(lanes: &mut [Lane], count: u32) -> Result<Counts, String> {
    let mut counts = Counts::default();
    let mut begun = 0;
    for lane in lanes.iter_mut() {
        if begun < count {
            lane.start()?;
            begun += 1;
        }
    }
    while counts.committed < count {
        wait(lanes)?;
        for lane in lanes.iter_mut() {
            while let Some(reply) = lane.take().map_err(broken)? {
                match lane.answered(&reply)? {
                    Step::Under => {}
                    Step::Again => counts.again += 1,
                    Step::Committed => {
                        counts.committed += 1;
                        *counts.by_path.entry(lane.path().to_owned()).or_default() += 1;
                        if begun < count {
                            lane.start()?;
                            begun += 1;
                        }
                    }
                }
            }
        }
    }
    if lanes.iter().all(Lane::is_idle) {
        Ok(counts)
    } else {
        Err("a transaction is still under way".to_owned())
    }
}

/// One request outside of any transaction, with nothing else under way.
fn ask(device: &mut Device, kind: XsType, payload: &str) -> Result<Vec<u8>, String> {
    device
        .send(kind, u32::MAX, 0, payload.as_bytes())
        .map_err(broken)?;
    loop {
        if let Some(reply) = device.take().map_err(broken)? {
            let text = String::from_utf8_lossy(&reply.payload).into_owned();
            return match reply.kind {
                XS_ERROR => Err(format!("{kind:?} {payload:?}: {text}")),
                _ => Ok(reply.payload),
            };
        }
        wait(core::slice::from_ref(device))?;
    }
}

/// Waits until one of them has an answer.
fn wait(devices: &[impl AsFd]) -> Result<(), String> {
    let patience = Timespec {
        tv_sec: PATIENCE,
        tv_nsec: 0,
    };
    let mut polled: Vec<_> = devices
        .iter()
        .map(|device| PollFd::new(device, PollFlags::IN))
        .collect();
    match poll(&mut polled, Some(&patience)) {
        Ok(0) => Err(format!("no answer for {PATIENCE} s")),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("poll: {error}")),
    }
}

fn rate(count: u32, took: Duration) -> f64 {
    f64::from(count) / took.as_secs_f64().max(0.001)
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

fn broken(error: io::Error) -> String {
    format!("/dev/xen/xenbus: {error}")
}
