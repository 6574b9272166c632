//! Opens many event channels of a Linux guest with itself, and signals each: every signal is to arrive once.
//!
//! `channels [COUNT]` (20,000 unless told otherwise) opens COUNT ports through `/dev/xen/evtchn`, in pairs connected with each other, and sends
//! on every one of them before it reads any. It prints what it did as `name=value`, and fails where a signal was lost, came
//! twice, or came for a port that is not its own.

mod device;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use device::Device;

/// This domain, whatever its number is.
const DOMID_SELF: u32 = 0x7ff0;
const COUNT: u32 = 20_000;
/// How long a signal may take, in milliseconds; the machine may be an emulated one.
const PATIENCE_MS: u32 = 20_000;
/// How long nothing may come where nothing is due.
const QUIET_MS: u32 = 500;

/// What went wrong.
enum Failure {
    /// A call.
    Call(&'static str, io::Error),
    /// Signals: how many ports are missing, twice there, or not ours.
    Signals {
        lost: usize,
        twice: usize,
        foreign: usize,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(what, error) => write!(f, "{what}: {error}"),
            Self::Signals {
                lost,
                twice,
                foreign,
            } => write!(
                f,
                "{lost} signals lost, {twice} came twice, {foreign} for ports that are not open"
            ),
        }
    }
}

fn main() -> ExitCode {
    let count = match std::env::args().nth(1).map(|count| count.parse()) {
        None => COUNT,
        Some(Ok(count)) => count,
        Some(Err(_)) => {
            eprintln!("usage: channels [COUNT]");
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

fn run(count: u32) -> Result<(), Failure> {
    let called = |what| move |error| Failure::Call(what, error);
    let mut device = Device::open().map_err(called("opening /dev/xen/evtchn"))?;
    let begun = Instant::now();
    let mut ports = BTreeSet::new();
    for _ in 0..count / 2 {
        let far = device
            .bind_unbound_port(DOMID_SELF)
            .map_err(called("binding an unbound port"))?;
        let near = device
            .bind_interdomain(DOMID_SELF, far)
            .map_err(called("connecting to it"))?;
        ports.extend([far, near]);
    }
    said("open", ports.len(), begun);

    // An end that connects begins with a signal, and so may the other one: those are not ours to count.
    loop {
        let first = device.take(QUIET_MS).map_err(called("reading"))?;
        if first.is_empty() {
            break;
        }
        device.give_back(&first).map_err(called("writing"))?;
    }

    let begun = Instant::now();
    for port in &ports {
        device.notify(*port).map_err(called("notifying"))?;
    }
    let notified = begun.elapsed();
    let mut taken = Taken::default();
    while taken.once.len() < ports.len() {
        let some = device.take(PATIENCE_MS).map_err(called("reading"))?;
        if some.is_empty() {
            break;
        }
        taken.count(&some, &ports);
    }
    said("signalled", taken.once.len(), begun);
    println!("channels_notify_s={}", seconds(notified));
    // A port that was signalled twice would come again when it is no longer masked.
    let all: Vec<u32> = ports.iter().copied().collect();
    device.give_back(&all).map_err(called("writing"))?;
    let late = device.take(QUIET_MS).map_err(called("reading"))?;
    taken.count(&late, &ports);
    taken.judge(ports.len())?;

    let begun = Instant::now();
    drop(device);
    println!("channels_close_s={}", seconds(begun.elapsed()));
    println!("channels={}", ports.len());
    Ok(())
}

/// What has been read.
#[derive(Default)]
struct Taken {
    once: BTreeSet<u32>,
    twice: usize,
    foreign: usize,
}

impl Taken {
    fn count(&mut self, ports: &[u32], ours: &BTreeSet<u32>) {
        for port in ports {
            if !ours.contains(port) {
                self.foreign += 1;
            } else if !self.once.insert(*port) {
                self.twice += 1;
            }
        }
    }

    fn judge(&self, due: usize) -> Result<(), Failure> {
        let lost = due - self.once.len();
        let (twice, foreign) = (self.twice, self.foreign);
        if (lost, twice, foreign) == (0, 0, 0) {
            return Ok(());
        }
        Err(Failure::Signals {
            lost,
            twice,
            foreign,
        })
    }
}

/// Prints how many were done since then, and the seconds.
fn said(what: &str, count: usize, since: Instant) {
    println!("channels_{what}={count}");
    println!("channels_{what}_s={}", seconds(since.elapsed()));
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}
