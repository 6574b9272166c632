//! The daemon replaced by another program while it is used.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cantle_abi::DomId;
use cantle_abi::io::xs_wire::{
    XS_CONTROL, XS_READ, XS_TRANSACTION_END, XS_WATCH, XS_WRITE, XsType,
};

use crate::operator::control;
use crate::support::guest::Guest;
use crate::support::raw::Raw;
use crate::support::{Daemon, PROGRAM, Said};

/// One step, and its answer's text.
fn step(client: &mut Raw, args: &[&str]) -> Result<String, String> {
    let payload: String = ["live-update"]
        .iter()
        .chain(args)
        .map(|arg| format!("{arg}\0"))
        .collect();
    let answer = client.ask(XS_CONTROL, 0, payload.as_bytes())?;
    Ok(String::from_utf8(answer)
        .unwrap()
        .trim_end_matches('\0')
        .to_owned())
}

#[track_caller]
fn update(client: &mut Raw, program: &str, start: &[&str]) {
    assert_eq!(step(client, &["-f", program]).as_deref(), Ok("OK"));
    assert_eq!(step(client, start).as_deref(), Ok("OK"));
}

fn updates_in(log: &str) -> usize {
    log.matches("this program goes on").count()
}

/// What both kinds of clients do: one request, its answer.
trait Asks {
    fn asks(&mut self, op: XsType, payload: &[u8]) -> Vec<u8>;
    /// How many events have come.
    fn events(&mut self) -> usize;
}

impl Asks for Raw {
    fn asks(&mut self, op: XsType, payload: &[u8]) -> Vec<u8> {
        self.ask(op, 0, payload).unwrap()
    }
    fn events(&mut self) -> usize {
        self.events.len()
    }
}

impl Asks for Guest {
    fn asks(&mut self, op: XsType, payload: &[u8]) -> Vec<u8> {
        self.ask(op, payload).unwrap()
    }
    fn events(&mut self) -> usize {
        self.events.len()
    }
}

/// Writes and reads until told to stop: each answer is the one to its request, and each write's event comes once.
fn work(client: &mut impl Asks, path: &str, stop: &AtomicBool, slowest: &AtomicU64) -> u64 {
    client.asks(XS_WATCH, format!("{path}\0token\0").as_bytes());
    let mut count = 0u64;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let begun = Instant::now();
        let written = client.asks(XS_WRITE, format!("{path}\0{count}").as_bytes());
        assert_eq!(written, b"OK\0");
        let read = client.asks(XS_READ, format!("{path}\0").as_bytes());
        assert_eq!(read, count.to_string().into_bytes(), "{path}");
        let took = u64::try_from(begun.elapsed().as_micros()).unwrap();
        slowest.fetch_max(took, Ordering::Relaxed);
    }
    // The first event of a watch, and one of each write; the last may come after the last answer.
    for _ in 0..100 {
        if client.events() as u64 > count {
            break;
        }
        client.asks(XS_READ, b"/\0");
    }
    assert_eq!(client.events() as u64, count + 1, "{path}: each event once");
    count
}

#[test]
fn nothing_is_lost_over_ten_updates_under_load() {
    const UPDATES: usize = 10;
    let folder = tempfile::tempdir().unwrap();
    let domains = folder.path().join("domains");
    let daemon = Daemon::start(folder.path(), ["--domains", domains.to_str().unwrap()]);
    let socket = daemon.socket();
    let mut operator = Raw::connect(&socket);
    // Open through all of it.
    let mut patient = Raw::connect(&socket);
    operator.ask(XS_WRITE, 0, b"/tx/read\x001").unwrap();
    let tx = patient.begin();
    assert_eq!(patient.ask(XS_READ, tx, b"/tx/read\0").unwrap(), b"1");
    patient.ask(XS_WRITE, tx, b"/tx/written\x002").unwrap();
    let mut doomed = Raw::connect(&socket);
    let lost = doomed.begin();
    assert_eq!(
        doomed.ask(XS_READ, lost, b"/tx/other\0"),
        Err("ENOENT".to_owned())
    );
    doomed.ask(XS_WRITE, lost, b"/tx/never\x001").unwrap();

    let (stop, slowest) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut guest = Guest::introduced(&domains, DomId(7));
    operator.ask(XS_WRITE, 0, b"/local/domain/7\0").unwrap();
    operator
        .ask(
            cantle_abi::io::xs_wire::XS_SET_PERMS,
            0,
            b"/local/domain/7\0b7\0",
        )
        .unwrap();
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for number in 0..4 {
            let (mut client, stop, slowest) = (Raw::connect(&socket), &stop, &slowest);
            workers.push(
                scope.spawn(move || work(&mut client, &format!("/work/{number}"), stop, slowest)),
            );
        }
        let (guest, stop_it, slowest) = (&mut guest, &stop, &slowest);
        workers.push(scope.spawn(move || work(guest, "data/w", stop_it, slowest)));
        for _ in 0..UPDATES {
            update(&mut operator, PROGRAM, &["-s", "-F"]);
            thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            assert!(worker.join().unwrap() > 100, "it worked");
        }
    });
    assert_eq!(updates_in(&daemon.log()), UPDATES);
    eprintln!(
        "slowest write and read: {} ms",
        slowest.load(Ordering::Relaxed) / 1000
    );

    operator.ask(XS_WRITE, 0, b"/tx/other\x001").unwrap();
    assert_eq!(
        patient.ask(XS_TRANSACTION_END, tx, b"T\0"),
        Ok(b"OK\0".to_vec())
    );
    assert_eq!(operator.ask(XS_READ, 0, b"/tx/written\0").unwrap(), b"2");
    assert_eq!(
        doomed.ask(XS_TRANSACTION_END, lost, b"T\0"),
        Err("EAGAIN".to_owned()),
        "what it had seen is no longer so"
    );
    guest.release();
    assert_eq!(
        operator.ask(XS_READ, 0, b"/local/domain/7/data/w\0"),
        Err("ENOENT".to_owned()),
        "the VMM's connection works, too"
    );
    assert_eq!(daemon.end(rustix::process::Signal::TERM).code(), Some(0));
    assert!(!socket.exists() && !domains.exists());
}

#[test]
fn half_a_request_and_answers_that_nobody_read_go_along() {
    use std::io::Write;

    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start::<&str>(folder.path(), []);
    let mut operator = Raw::connect(&daemon.socket());
    operator
        .ask(XS_WRITE, 0, &[b"/big\0", &[b'x'; 2000][..]].concat())
        .unwrap();
    // It asks and does not read, until there is no room in the socket.
    let mut lazy = Raw::connect(&daemon.socket());
    lazy.stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut asked = 0;
    let question = lazy.message(XS_READ, 0, b"/big\0");
    let cut = loop {
        match lazy.stream.write(&question) {
            Ok(len) if len == question.len() => asked += 1,
            Ok(len) => break len,
            Err(_) => break 0,
        }
    };
    let mut slow = Raw::connect(&daemon.socket());
    let whole = slow.message(XS_READ, 0, b"/big\0");
    slow.stream.write_all(&whole[..20]).unwrap();
    thread::sleep(Duration::from_millis(50));

    update(&mut operator, PROGRAM, &["-s"]);

    slow.stream.write_all(&whole[20..]).unwrap();
    assert_eq!(slow.receive().unwrap().payload.len(), 2000);
    for _ in 0..asked {
        assert_eq!(lazy.receive().unwrap().payload.len(), 2000);
    }
    if cut > 0 {
        lazy.stream.write_all(&question[cut..]).unwrap();
        assert_eq!(lazy.receive().unwrap().payload.len(), 2000);
    }
    assert!(asked > 100, "{asked}");
    assert_eq!(
        lazy.ask(XS_READ, 0, b"/tool\0"),
        Ok(Vec::new()),
        "and nothing twice"
    );
}

#[test]
fn open_transactions_are_waited_for_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start::<&str>(folder.path(), []);
    let mut operator = Raw::connect(&daemon.socket());
    let mut other = Raw::connect(&daemon.socket());
    let tx = other.begin();
    assert_eq!(step(&mut operator, &["-f", PROGRAM]).as_deref(), Ok("OK"));
    assert_eq!(step(&mut operator, &["-s"]).as_deref(), Ok("BUSY"));
    let begun = Instant::now();
    let refused = step(&mut operator, &["-s", "-t", "1"]).unwrap();
    assert!(refused.contains("domain 0: 1"), "{refused}");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(updates_in(&daemon.log()), 0);

    // It ends in time.
    assert_eq!(step(&mut operator, &["-f", PROGRAM]).as_deref(), Ok("OK"));
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            other.ask(XS_TRANSACTION_END, tx, b"F\0").unwrap();
        });
        assert_eq!(
            step(&mut operator, &["-s", "-t", "30"]).as_deref(),
            Ok("OK")
        );
    });
    assert_eq!(updates_in(&daemon.log()), 1);
}

#[test]
fn steps_out_of_order_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start::<&str>(folder.path(), []);
    let [mut one, mut two] = [(); 2].map(|()| Raw::connect(&daemon.socket()));
    let not = |answer: Result<String, String>, what: &str| {
        let text = answer.unwrap();
        assert!(text.contains(what), "{text}");
    };
    not(step(&mut one, &["-s"]), "has begun no live update");
    not(step(&mut one, &["-c", "--x"]), "has begun no live update");
    not(step(&mut one, &["-a"]), "no live update is under way");
    not(
        step(&mut one, &["-f", "/no/such/file"]),
        "cannot be accessed",
    );
    not(step(&mut one, &["-f", "/etc/passwd"]), "not executable");
    assert_eq!(step(&mut one, &["-x"]), Err("EINVAL".to_owned()));
    assert_eq!(step(&mut one, &["-f", PROGRAM]).as_deref(), Ok("OK"));
    not(step(&mut two, &["-f", PROGRAM]), "under way already");
    not(step(&mut two, &["-s"]), "has begun no live update");
    not(step(&mut one, &["-s", "-v", "99"]), "version");
    // Anybody may end it; what ends with its connection is forgotten.
    assert_eq!(step(&mut two, &["-a"]).as_deref(), Ok("OK"));
    assert_eq!(step(&mut one, &["-f", PROGRAM]).as_deref(), Ok("OK"));
    drop(one);
    crate::support::eventually("it is forgotten", || {
        step(&mut two, &["-f", PROGRAM]).as_deref() == Ok("OK")
    });
    assert_eq!(step(&mut two, &["-s"]).as_deref(), Ok("OK"));
}

fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_program_that_cannot_take_over_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start::<&str>(folder.path(), []);
    let mut operator = Raw::connect(&daemon.socket());
    operator.ask(XS_WRITE, 0, b"/kept\x001").unwrap();
    operator.ask(XS_WATCH, 0, b"/kept\0token\0").unwrap();
    let no_program = folder.path().join("no-program");
    fs::write(&no_program, "nothing that runs").unwrap();
    fs::set_permissions(&no_program, fs::Permissions::from_mode(0o755)).unwrap();
    // It can read the state, and then cannot begin.
    let late = format!("exec {PROGRAM} --journal /proc/none \"$@\"");
    let late = script(folder.path(), "late", &late);
    for (program, args, why) in [
        (
            Path::new("/bin/true"),
            "",
            "no xenstore daemon that can take over",
        ),
        (Path::new("/bin/false"), "", "cannot use the state"),
        (&no_program, "", "cannot be run"),
        (Path::new(PROGRAM), "--no-such-option", "--no-such-option"),
        (
            &late,
            "",
            "the new program could not take over: the journal",
        ),
    ] {
        let begin = step(&mut operator, &["-f", program.to_str().unwrap()]);
        assert_eq!(begin.as_deref(), Ok("OK"));
        if !args.is_empty() {
            assert_eq!(step(&mut operator, &["-c", args]).as_deref(), Ok("OK"));
        }
        let answer = step(&mut operator, &["-s"]).unwrap();
        assert!(answer.contains(why), "{program:?}: {answer}");
        assert_eq!(
            operator.ask(XS_READ, 0, b"/kept\0").unwrap(),
            b"1",
            "{program:?}"
        );
    }
    update(&mut operator, PROGRAM, &["-s"]);
    operator.ask(XS_WRITE, 0, b"/kept\x002").unwrap();
    operator.ask(XS_READ, 0, b"/\0").unwrap();
    assert_eq!(
        operator.events, [b"/kept\0token\0"; 2],
        "its watch has come through all of it"
    );
}

#[test]
fn the_new_command_line_counts() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start::<&str>(folder.path(), []);
    let mut operator = Raw::connect(&daemon.socket());
    let log = folder.path().join("new-log");
    assert_eq!(step(&mut operator, &["-f", PROGRAM]).as_deref(), Ok("OK"));
    let args = format!("--log-file {}", log.display());
    assert_eq!(step(&mut operator, &["-c", &args]).as_deref(), Ok("OK"));
    assert_eq!(step(&mut operator, &["-s"]).as_deref(), Ok("OK"));
    assert_eq!(updates_in(&fs::read_to_string(&log).unwrap()), 1);
    // The next has it from this one.
    update(&mut operator, PROGRAM, &["-s"]);
    assert_eq!(updates_in(&fs::read_to_string(&log).unwrap()), 2);
    assert_eq!(updates_in(&daemon.log()), 0);
}

#[test]
fn an_operator_updates_by_xenstore_control() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start::<&str>(folder.path(), []);
    let done = Said {
        code: Some(0),
        out: String::new(),
        err: String::new(),
    };
    let Some(said) = control(&daemon, &["live-update", PROGRAM]) else {
        return;
    };
    assert_eq!(said, done);
    let mut other = Raw::connect(&daemon.socket());
    let tx = other.begin();
    let said = control(&daemon, &["live-update", "-t", "2", PROGRAM]).unwrap();
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.err.contains("transactions are open"), "{said:?}");
    let said = control(&daemon, &["live-update", "-F", "-t", "1", PROGRAM]).unwrap();
    assert_eq!(said, done);
    other.ask(XS_TRANSACTION_END, tx, b"T\0").unwrap();
    assert_eq!(updates_in(&daemon.log()), 2);
}

/// 120,000 nodes change hands. The figure is printed; how long it may take on whatever machine this is, is not this test's business.
#[test]
fn a_large_store_changes_hands() {
    const DOMAINS: u32 = 2000;
    const NODES: u32 = 60;
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start::<&str>(folder.path(), []);
    let mut client = Raw::connect(&daemon.socket());
    for domain in 1..=DOMAINS {
        for node in 0..NODES {
            let path = format!("/local/domain/{domain}/device/{node}\0value of {node}");
            client.send(XS_WRITE, 0, path.as_bytes()).unwrap();
        }
        for _ in 0..NODES {
            client.receive().unwrap();
        }
    }
    let stop = AtomicBool::new(false);
    let slowest = AtomicU64::new(0);
    thread::scope(|scope| {
        let mut worker = Raw::connect(&daemon.socket());
        let (stop, slowest) = (&stop, &slowest);
        let working = scope.spawn(move || work(&mut worker, "/work", stop, slowest));
        thread::sleep(Duration::from_millis(50));
        update(&mut client, PROGRAM, &["-s"]);
        stop.store(true, Ordering::Relaxed);
        working.join().unwrap();
    });
    let log = daemon.log();
    let pause = log
        .lines()
        .find(|line| line.contains("this program goes on"))
        .unwrap();
    let slowest = slowest.load(Ordering::Relaxed) / 1000;
    eprintln!("{pause}\nslowest write and read of a client: {slowest} ms");
    let last = format!("/local/domain/{DOMAINS}/device/{}\0", NODES - 1);
    assert_eq!(
        client.ask(XS_READ, 0, last.as_bytes()).unwrap(),
        b"value of 59"
    );
}
