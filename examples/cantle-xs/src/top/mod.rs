//! A live view of who asks the daemon for what.

mod sample;
mod show;

use std::io::{IsTerminal, Write as _};
use std::thread;
use std::time::Instant;

use anyhow::Result;
use cantle_xenstore::client::SocketClient;

use crate::cli::Top;
use crate::output::Output;
use sample::{Names, Sample, rates};

/// Clears the screen from its upper left corner on.
const CLEAR: &str = "\x1b[H\x1b[J";

pub(crate) fn top(client: &SocketClient, out: &mut Output, args: &Top) -> Result<u8> {
    let redraw = !args.json && std::io::stdout().is_terminal();
    let mut names = Names::default();
    let mut before = Sample::take(client)?;
    let mut due = Instant::now();
    let mut ticks = 0;
    while args.number.is_none_or(|number| ticks < number.get()) {
        // From tick to tick, not from the end of one to the next; ticks that were missed are.
        due = (due + args.delay).max(Instant::now());
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let now = Sample::take(client)?;
        names.learn(client, &now);
        let rows = rates(&before, &now, &names);
        let seconds = now.seconds_since(&before);
        if args.json {
            show::json(out, seconds, &rows)?;
        } else {
            if redraw {
                out.write_all(CLEAR.as_bytes())?;
            }
            show::table(out, seconds, &rows, redraw.then(show::height).flatten())?;
        }
        out.flush()?;
        before = now;
        ticks += 1;
    }
    Ok(0)
}
