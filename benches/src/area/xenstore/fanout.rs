//! One write that a thousand watchers hear of.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::Result;
use cantle_abi::io::xs_wire::XS_WATCH;

use super::daemons::Daemon;
use super::load::{Load, converse, dial};
use super::script::{self, Script};
use super::sides::Sides;
use crate::measure::Unit;
use crate::report::Report;

const WATCHERS: usize = 1000;

struct Side {
    writer: UnixStream,
    write: Vec<u8>,
    watchers: Load,
    _daemon: Daemon,
}

impl Side {
    /// Where nothing is watched (the limit), everybody hears everything, without asking.
    fn new(daemon: Daemon, watched: bool) -> Result<Self> {
        let write = script::write("/bench/w")?;
        let writer = dial(daemon.socket())?;
        converse(&writer, &write, 1)?;
        let watch = script::request(XS_WATCH, 0, &[b"/bench/w\0token\0"])?;
        let watchers = (0..WATCHERS)
            .map(|_| {
                let stream = dial(daemon.socket())?;
                if watched {
                    // The answer, and the first event.
                    converse(&stream, &watch, 2)?;
                }
                Ok((stream, Script::Listen))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            writer,
            write,
            watchers: Load::over(watchers)?,
            _daemon: daemon,
        })
    }

    /// Events a second.
    fn rate(&mut self, slice: Duration) -> Result<(f64, u64)> {
        let begun = Instant::now();
        let mut heard = 0.0;
        while begun.elapsed() < slice {
            converse(&self.writer, &self.write, 1)?;
            self.watchers.hear(WATCHERS as u64)?;
            heard += WATCHERS as f64;
        }
        Ok((heard / begun.elapsed().as_secs_f64(), 0))
    }
}

/// Events a second to a thousand watchers; the limit is a program that writes to as many sockets what it reads from one.
pub(super) fn run(report: &mut Report) -> Result<()> {
    let limit = Daemon::fanout().and_then(|daemon| Side::new(daemon, false));
    let sides = Sides::new(|daemon| Side::new(daemon, true), Some(limit))?;
    sides.contest(
        report,
        "xenstore/watch_fanout_1000",
        Unit::PerSecond,
        &mut |side, slice| side.rate(slice),
    )
}
