//! The host's side of an attempt: a guest with secrets, a broker, and the verdict.

// UNSAFETY: a process that ends itself.
#![expect(unsafe_code)]

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use cantle_abi::{DomId, Gfn, GrantRef};
use cantle_grant::Tables;
use cantle_grant::process::test_utils::FileGuest;
use cantle_grant::process::{Broker, BrokerConfig, End, Strays, socket_pair};

use crate::{Attempt, Setting, attempts};

pub(crate) const GUEST: DomId = DomId(1);
pub(crate) const OTHER_GUEST: DomId = DomId(2);
pub(crate) const BACKEND: DomId = DomId(7);
/// So that a large page fits in.
pub(crate) const FRAMES: usize = 2048;
/// Lent for reading and writing; nothing beside it is.
pub(crate) const LENT: (GrantRef, Gfn) = (GrantRef(8), Gfn(800));
/// Lent for reading.
pub(crate) const LENT_READ_ONLY: (GrantRef, Gfn) = (GrantRef(9), Gfn(820));
/// Lent, but touched before it is mapped.
pub(crate) const LENT_LATER: (GrantRef, Gfn) = (GrantRef(10), Gfn(840));
/// Lent to another domain.
pub(crate) const NOT_OURS: GrantRef = GrantRef(11);
/// Lent; the guest gives the page back while it is mapped.
pub(crate) const BALLOONED: (GrantRef, Gfn) = (GrantRef(12), Gfn(860));

/// What lent pages are full of.
pub(crate) const PUBLIC: u8 = 0xa1;
/// What all others are full of.
pub(crate) const SECRET: u8 = 0x5e;
/// What an attacker writes.
pub(crate) const DIRT: u8 = 0xdd;

/// An attempt that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is to come of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// No secret seen, nothing changed.
    Closed,
    /// A secret seen, or something changed: a control.
    Open,
    /// What is lent is as it should be, and no secret seen.
    Lent,
    /// The back end is not served at all.
    Refused,
}

/// The guest, with its secrets and its grants.
struct World {
    guest: FileGuest,
    tables: Tables,
}

impl World {
    fn new() -> Self {
        let guest = FileGuest::new(GUEST, FRAMES);
        let tables = Tables::new();
        let known = tables.insert(guest.table().clone());
        known.expect("the only guest");
        for frame in 0..FRAMES as u64 {
            guest.fill(Gfn(frame), SECRET);
        }
        for (gref, gfn) in [LENT, LENT_LATER, BALLOONED] {
            guest.fill(gfn, PUBLIC);
            guest.grant(gref, BACKEND, gfn, false);
        }
        guest.fill(LENT_READ_ONLY.1, PUBLIC);
        guest.grant(LENT_READ_ONLY.0, BACKEND, LENT_READ_ONLY.1, true);
        guest.grant(NOT_OURS, DomId(8), Gfn(900), false);
        Self { guest, tables }
    }

    /// What happens when the back end says something.
    fn hear(&self, line: &str) {
        let guest = &self.guest;
        match line {
            "give back" => guest.give_back(BALLOONED.1),
            // A guest that has its page back has something else in it.
            "unmapped" if guest.end_access(LENT.0) => guest.fill(LENT.1, SECRET),
            "end domain" => drop(self.tables.remove(GUEST)),
            _ => {}
        }
    }

    /// The first frame that is not lent and not as it was, or the read-only one if that is not.
    fn changed(&self) -> Option<Gfn> {
        let writable = [LENT.1, LENT_LATER.1, BALLOONED.1];
        (0..FRAMES as u64).map(Gfn).find(|frame| {
            let wanted = if *frame == LENT_READ_ONLY.1 {
                PUBLIC
            } else {
                SECRET
            };
            !writable.contains(frame) && self.guest.read(*frame).iter().any(|byte| *byte != wanted)
        })
    }

    /// A back end and its broker.
    fn start(
        &self,
        name: &str,
        setting: Setting,
        stdout: Stdio,
    ) -> Result<(Child, Broker), String> {
        let (ours, theirs) = socket_pair().map_err(|e| e.to_string())?;
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let child = Command::new(program)
            .args(["--backend", name, setting.name()])
            .stdin(theirs)
            .stdout(stdout)
            .spawn()
            .map_err(|e| e.to_string())?;
        let config = BrokerConfig {
            strays: if setting == Setting::Kill {
                Strays::Kill
            } else {
                Strays::Poison
            },
            ..BrokerConfig::new(BACKEND)
        };
        let granters = vec![self.guest.granter()];
        let mut broker =
            Broker::start(ours, child.id(), config, granters).map_err(|error| chain(&error))?;
        if setting.is_open() {
            broker.trust_unconfined();
        }
        Ok((child, broker))
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

/// What was said and done.
struct Outcome {
    said: String,
    how: String,
    end: String,
    changed: Option<Gfn>,
    in_use: usize,
}

/// Makes the attempts whose names have `part` in them.
pub(crate) fn all(part: &str) -> ExitCode {
    println!("kernel {}", kernel());
    let (mut passed, mut failed) = (0, 0);
    for attempt in attempts() {
        if !attempt.name.contains(part) {
            continue;
        }
        let verdict = run(&attempt).and_then(|outcome| judge(&attempt, &outcome));
        match verdict {
            Ok(how) => {
                passed += 1;
                println!("ok    {}: {how}", attempt.name);
            }
            Err(why) => {
                failed += 1;
                println!("FAIL  {}: {why}", attempt.name);
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn kernel() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    read("/proc/sys/kernel/osrelease").trim().to_owned()
}

fn judge(attempt: &Attempt, outcome: &Outcome) -> Result<String, String> {
    let Outcome {
        said,
        how,
        end,
        changed,
        in_use,
    } = outcome;
    let told = said.replace('\n', "; ");
    let all = format!("{told} [{how}; broker: {end}]");
    if attempt.expect == Expect::Refused {
        let refused = !said.contains("ready") && end.contains("Unfit");
        return if refused { Ok(all) } else { Err(all) };
    }
    if !said.contains("ready") {
        return Err(format!("it did not get so far: {all}"));
    }
    if *in_use != 0 {
        return Err(format!("{in_use} grants are in use after its end: {all}"));
    }
    let seen = said.contains("SEEN");
    match (attempt.expect, changed) {
        (Expect::Open, _) if seen || changed.is_some() => Ok(format!("open, as it must be: {all}")),
        (Expect::Open, _) => Err(format!("a control that shows nothing: {all}")),
        (_, Some(gfn)) => Err(format!("frame {gfn} was changed: {all}")),
        (_, None) if seen => Err(format!("a secret was seen: {all}")),
        (Expect::Lent, None) if !said.contains("LENT") => {
            Err(format!("not as it should be: {all}"))
        }
        (_, None) => Ok(all),
    }
}

fn run(attempt: &Attempt) -> Result<Outcome, String> {
    match attempt.setting {
        Setting::NoBroker | Setting::OpenNoBroker => run_without_broker(attempt),
        _ => run_served(attempt),
    }
}

fn run_served(attempt: &Attempt) -> Result<Outcome, String> {
    let world = World::new();
    let (mut child, mut broker) = world.start(attempt.name, attempt.setting, Stdio::piped())?;
    let mut poisons = if broker.poisons() { "poison" } else { "kill" }.to_owned();
    let (stop, stopped) = socket_pair().map_err(|e| e.to_string())?;
    let stdout = child.stdout.take().ok_or("no output")?;
    let (here, mut end) = (&world, None);
    let said = thread::scope(|scope| {
        let reader = scope.spawn(move || collect(stdout, |line| here.hear(line)));
        let serving = scope.spawn(|| end = Some(broker.serve(stopped.as_fd())));
        let said = reader.join().unwrap_or(Err("the reader failed".into()));
        if said.is_err() {
            drop(stop);
        }
        let _ = serving.join();
        said
    })?;
    drop(broker);
    let how = child.wait().map_err(|e| e.to_string())?;
    match &end {
        Some(End::Gone) => {}
        Some(End::Strayed(_)) => poisons += ", ended it",
        Some(other) => poisons = format!("{poisons}, {other:?}"),
        None => poisons += ", nothing",
    }
    Ok(Outcome {
        said,
        how: describe(how),
        end: poisons,
        changed: world.changed(),
        in_use: world.guest.table().mapped().len(),
    })
}

/// Reads lines to their end, at most so long.
fn collect(
    mut from: impl Read + Send + 'static,
    mut on_line: impl FnMut(&str),
) -> Result<String, String> {
    let (sender, bytes) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            let _ = sender.send(buffer.get(..len).unwrap_or_default().to_vec());
        }
    });
    let mut said = String::new();
    let mut told = 0;
    loop {
        match bytes.recv_timeout(PATIENCE) {
            Ok(more) => said += &String::from_utf8_lossy(&more),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(said.trim().to_owned()),
            Err(mpsc::RecvTimeoutError::Timeout) => return Err(format!("stuck after {said:?}")),
        }
        while let Some(len) = said.get(told..).and_then(|rest| rest.find('\n')) {
            on_line(said.get(told..told + len).unwrap_or_default());
            told += len + 1;
        }
    }
}

fn describe(how: std::process::ExitStatus) -> String {
    match (how.code(), how.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (_, Some(libc::SIGBUS)) => "SIGBUS".to_owned(),
        (_, Some(libc::SIGKILL)) => "SIGKILL".to_owned(),
        (_, signal) => format!("signal {signal:?}"),
    }
}

/// The broker is a process of its own, and kills itself.
fn run_without_broker(attempt: &Attempt) -> Result<Outcome, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut child = Command::new(program)
        .args(["--broker", attempt.name, attempt.setting.name()])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    let stdout = child.stdout.take().ok_or("no output")?;
    let said = collect(stdout, |_| ())?;
    let how = child.wait().map_err(|e| e.to_string())?;
    Ok(Outcome {
        said,
        how: format!("broker: {}", describe(how)),
        end: "killed".to_owned(),
        changed: None,
        in_use: 0,
    })
}

/// Serves until the back end has mapped a page, then dies as if killed from outside.
pub(crate) fn doomed_broker(name: &str, setting: &str) -> ExitCode {
    let Some(setting) = Setting::named(setting) else {
        return ExitCode::from(2);
    };
    let world = World::new();
    // What the back end says goes to whoever reads this process's output; it outlives this process.
    let (_child, mut broker) = match world.start(name, setting, Stdio::inherit()) {
        Ok(started) => started,
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let (_stop, stopped) = socket_pair().expect("sockets are to be had");
    thread::spawn(move || broker.serve(stopped.as_fd()));
    while world.guest.table().mapped().len() < 2 {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(50));
    // SAFETY: to this process alone.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    ExitCode::FAILURE
}
