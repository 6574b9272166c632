//! Live update: the daemon replaces itself by another program, with its store, its clients and their requests.
//!
//! An operator names the program (`-f`), then starts (`-s`). From then on:
//!
//! 1. The new program is run beside this one, on a copy of the state, to see whether it could go on from it. This daemon serves
//!    meanwhile.
//! 2. When no transaction is open, or those that are have been waited for and `-F` says not to mind, the state is saved to a memory file
//!    ([migration stream](cantle_xenstore::state)), and a [table](table::Table) says which descriptor is what.
//! 3. The process executes the new program. It keeps its number, its descriptors and the signals that wait for it.
//! 4. The new program loads the state, answers the operator and goes on. Open transactions and watches are in the state.
//!
//! Whatever fails before the execution is the operator's answer, and nothing has happened. If the new program then cannot load the state
//! after all, it executes the previous one with the same state, which answers with the reason.

mod arrive;
mod check;
mod leave;
mod request;
mod table;

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use cantle_abi::DomId;
use cantle_xenstore::server::{ConnId, Ticket};

use check::{Check, WHOLE};
use request::Start;

pub(crate) use request::Step;

pub(crate) use arrive::{Arrival, check_state};
pub(crate) use leave::Leaving;

/// How often open transactions are looked for while they are waited for, when nothing else happens.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// The operator's live update, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Updates(Option<Session>);

#[derive(Debug)]
struct Session {
    conn: ConnId,
    program: PathBuf,
    args: Option<Vec<String>>,
    started: Option<Started>,
}

#[derive(Debug)]
struct Started {
    ticket: Ticket,
    how: Start,
    deadline: Instant,
    check: Check,
    checked: bool,
}

/// What is to be done about a live update.
#[derive(Debug)]
pub(crate) enum Next {
    /// Tell the operator.
    Answer(Ticket, String),
    /// Do it.
    Go(Go),
}

/// A live update that has nothing left to wait for.
#[derive(Debug)]
pub(crate) struct Go {
    pub(crate) ticket: Ticket,
    pub(crate) program: PathBuf,
    /// The new program's command line; none for ours.
    pub(crate) args: Option<Vec<String>>,
}

/// What a live update needs to know of the daemon.
pub(crate) trait Host {
    /// The domains with open transactions, and how many.
    fn open_transactions(&self) -> Vec<(DomId, u64)>;
    /// The state in a file, to be read from its beginning.
    fn state(&self) -> Result<File>;
    /// Calls back the daemon's loop from any thread.
    fn alarm(&self) -> Box<dyn FnOnce() + Send>;
    /// The command line that this daemon was called with.
    fn args(&self) -> &[String];
}

impl Updates {
    /// Handles one request: at most two answers, its own and, where it ends a live update, that update's.
    pub(crate) fn request(&mut self, ticket: Ticket, step: Step, host: &dyn Host) -> Vec<Next> {
        tracing::info!(?step, "live update");
        let conn = ticket.conn;
        let mut answers = Vec::new();
        let outcome = match step {
            Step::Program(program) => self.begin(conn, program),
            Step::CommandLine(args) => self.ours(conn).map(|session| session.args = Some(args)),
            Step::Abort if self.0.is_none() => Err("no live update is under way"),
            // Anybody who is privileged may end it.
            Step::Abort => {
                answers.extend(self.give_up("the live update was aborted"));
                Ok(())
            }
            Step::Start(how) => return self.start(ticket, how, host).into_iter().collect(),
        };
        let text = outcome.err().unwrap_or("OK");
        answers.push(Next::Answer(ticket, text.to_owned()));
        answers
    }

    /// Whether [`poll`](Self::poll) is to be called from time to time.
    pub(crate) fn is_under_way(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|session| session.started.is_some())
    }

    /// Looks whether it can go on.
    pub(crate) fn poll(&mut self, host: &dyn Host) -> Option<Next> {
        let started = self.0.as_mut()?.started.as_mut()?;
        if !started.checked {
            match started.check.outcome()? {
                Ok(()) => started.checked = true,
                Err(error) => return self.give_up(&format!("{error:#}")),
            }
        }
        let open = host.open_transactions();
        if !open.is_empty() && Instant::now() < started.deadline {
            return None;
        }
        if !open.is_empty() && !started.how.force {
            return self.give_up(&still_open(&open));
        }
        let session = self.0.take()?;
        Some(Next::Go(Go {
            ticket: session.started?.ticket,
            program: session.program,
            args: session.args,
        }))
    }

    /// A connection has ended, and with it what it had begun.
    pub(crate) fn forget_ended(&mut self, is_connected: impl FnOnce(ConnId) -> bool) {
        self.0.take_if(|session| !is_connected(session.conn));
    }

    fn begin(&mut self, conn: ConnId, program: PathBuf) -> Result<(), &'static str> {
        if self.0.is_some() {
            return Err("a live update is under way already");
        }
        let about = std::fs::metadata(&program).map_err(|_| "the file cannot be accessed")?;
        if !about.is_file() || about.permissions().mode() & 0o111 == 0 {
            return Err("the file is not executable");
        }
        self.0 = Some(Session {
            conn,
            program,
            args: None,
            started: None,
        });
        Ok(())
    }

    fn ours(&mut self, conn: ConnId) -> Result<&mut Session, &'static str> {
        let begun = self.0.as_mut().filter(|session| session.conn == conn);
        begun.ok_or("this connection has begun no live update")
    }

    fn start(&mut self, ticket: Ticket, how: Start, host: &dyn Host) -> Option<Next> {
        let refused = |ticket, why: String| Some(Next::Answer(ticket, why));
        let session = match self.ours(ticket.conn) {
            Ok(session) if session.started.is_some() => return refused(ticket, "BUSY".to_owned()),
            Ok(session) => session,
            Err(why) => return refused(ticket, why.to_owned()),
        };
        if how
            .version
            .is_some_and(|version| version != cantle_xenstore::state::VERSION)
        {
            return refused(
                ticket,
                "this version of the state is not written".to_owned(),
            );
        }
        // Somebody who does not want to wait here asks again later.
        if how.patience.is_zero() && !how.force && !host.open_transactions().is_empty() {
            return refused(ticket, "BUSY".to_owned());
        }
        let args = session.args.as_deref().unwrap_or_else(|| host.args());
        let check = host
            .state()
            .and_then(|state| Check::start(&session.program, args, state, host.alarm()));
        match check {
            Ok(check) => {
                session.started = Some(Started {
                    ticket,
                    how,
                    deadline: Instant::now() + how.patience,
                    check,
                    checked: false,
                });
                None
            }
            Err(error) => {
                self.0 = None;
                refused(ticket, format!("{error:#}"))
            }
        }
    }

    /// Ends it; the operator may begin anew.
    fn give_up(&mut self, why: &str) -> Option<Next> {
        let ticket = self.0.take()?.started?.ticket;
        tracing::warn!("live update: {why}");
        Some(Next::Answer(ticket, why.to_owned()))
    }
}

fn still_open(open: &[(DomId, u64)]) -> String {
    let mut text = "transactions are open:".to_owned();
    for (domid, count) in open.iter().take(32) {
        text.push_str(&format!("\ndomain {domid}: {count}"));
    }
    text
}
