//! The daemon killed at any moment, and what is there afterwards.

use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cantle_abi::DomId;
use cantle_abi::io::xs_wire::{
    XS_DIRECTORY, XS_IS_DOMAIN_INTRODUCED, XS_READ, XS_RM, XS_SET_PERMS, XS_TRANSACTION_END,
    XS_WATCH, XS_WRITE,
};
use rustix::process::Signal;

use crate::support::guest::Guest;
use crate::support::raw::Raw;
use crate::support::{Daemon, PROGRAM, Said};

const KILLS: u64 = 40;

/// What one writer knows: what was acknowledged, and one step more that may have been done.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    acknowledged: u64,
    asked: u64,
}

fn start(folder: &Path) -> Daemon {
    let journal = folder.join("journal");
    Daemon::start(folder, ["--journal", journal.to_str().unwrap()])
}

/// Each step writes a node of its own, moves a pair on in one transaction, and removes the node before last, until the daemon is gone.
fn write(socket: &Path, number: u64, known: &mut Known) -> std::io::Result<()> {
    let mut client = Raw::try_connect(socket)?;
    loop {
        let step = known.acknowledged + 1;
        known.asked = step;
        let home = format!("/crash/{number}");
        client
            .try_ask(XS_WRITE, 0, format!("{home}/n/{step}\0{step}").as_bytes())?
            .unwrap();
        let tx = client
            .try_ask(cantle_abi::io::xs_wire::XS_TRANSACTION_START, 0, b"\0")?
            .unwrap();
        let tx = std::str::from_utf8(&tx)
            .unwrap()
            .trim_end_matches('\0')
            .parse()
            .unwrap();
        for half in ["left", "right"] {
            let pair = format!("{home}/{half}\0{step}");
            client.try_ask(XS_WRITE, tx, pair.as_bytes())?.unwrap();
        }
        client.try_ask(XS_TRANSACTION_END, tx, b"T\0")?.unwrap();
        if step > 2 {
            let old = format!("{home}/n/{}\0", step - 2);
            client.try_ask(XS_RM, 0, old.as_bytes())?.unwrap();
        }
        known.acknowledged = step;
    }
}

/// What was acknowledged is there; of the step after, whole parts or nothing.
fn verify(client: &mut Raw, number: u64, known: Known) {
    let home = format!("/crash/{number}");
    let mut read = |name: &str| {
        let value = client.ask(XS_READ, 0, format!("{home}/{name}\0").as_bytes());
        value.map_or(0, |value| {
            String::from_utf8(value).unwrap().parse::<u64>().unwrap()
        })
    };
    let Known {
        acknowledged,
        asked,
    } = known;
    let pair = [read("left"), read("right")];
    assert!(
        pair == [acknowledged; 2] || pair == [asked; 2],
        "{pair:?} of {known:?}"
    );
    assert_eq!(
        read(&format!("n/{acknowledged}")),
        acknowledged,
        "{known:?}"
    );
    let listed = client
        .ask(XS_DIRECTORY, 0, format!("{home}/n\0").as_bytes())
        .unwrap_or_default();
    for name in listed
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let step: u64 = std::str::from_utf8(name).unwrap().parse().unwrap();
        assert!(
            step + 1 >= acknowledged && step <= asked,
            "{step} of {known:?}"
        );
    }
}

#[test]
fn no_acknowledged_write_is_lost_to_a_kill() {
    let seed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    eprintln!("seed {seed}");
    let mut state = u64::from(seed) | 1;
    let mut random = move |below: u64| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let folder = tempfile::tempdir().unwrap();
    let mut all = [Known::default(); 3];
    for kill in 0..=KILLS {
        let daemon = start(folder.path());
        let socket = daemon.socket();
        let mut reader = Raw::connect(&socket);
        for (number, known) in (0..).zip(&mut all) {
            verify(&mut reader, number, *known);
            // The step that was half done is begun again under its own number: it is known now how far it came.
            let value = reader.ask(XS_READ, 0, format!("/crash/{number}/left\0").as_bytes());
            if value.is_ok_and(|value| value == known.asked.to_string().into_bytes()) {
                known.acknowledged = known.asked;
                // The removal may be what it did not come to.
                let old = format!("/crash/{number}/n/{}\0", known.asked.saturating_sub(2));
                reader.ask(XS_RM, 0, old.as_bytes()).unwrap();
            }
        }
        if kill == KILLS {
            assert_eq!(daemon.end(Signal::TERM).code(), Some(0));
            break;
        }
        thread::scope(|scope| {
            for (number, known) in (0..).zip(&mut all) {
                let socket = &socket;
                scope.spawn(move || write(socket, number, known).unwrap_err());
            }
            thread::sleep(Duration::from_micros(random(60_000)));
            daemon.signal(Signal::KILL);
        });
    }
    eprintln!("{all:?}");
    assert!(
        all.iter().all(|known| known.acknowledged > KILLS),
        "they worked: {all:?}"
    );
}

#[test]
fn permissions_and_domains_are_kept_and_a_second_daemon_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path());
    let mut client = Raw::connect(&daemon.socket());
    client.ask(XS_WRITE, 0, b"/a\x001").unwrap();
    client.ask(XS_SET_PERMS, 0, b"/a\0n0\0r5\0").unwrap();
    client
        .ask(cantle_abi::io::xs_wire::XS_INTRODUCE, 0, b"5\x001\x002\0")
        .unwrap();
    let journal = folder.path().join("journal");
    let other = folder.path().join("other");
    let second: Said = std::process::Command::new(PROGRAM)
        .args(["--socket".as_ref(), other.as_os_str()])
        .args(["--journal".as_ref(), journal.as_os_str()])
        .output()
        .unwrap()
        .into();
    assert_eq!(second.code, Some(2), "{second:?}");
    assert!(second.err.contains("journal"), "{second:?}");
    daemon.end(Signal::KILL);

    let daemon = start(folder.path());
    assert!(daemon.log().contains("as the journal has it"));
    let mut client = Raw::connect(&daemon.socket());
    let perms = client.ask(cantle_abi::io::xs_wire::XS_GET_PERMS, 0, b"/a\0");
    assert_eq!(perms.unwrap(), b"n0\0r5\0");
    assert_eq!(
        client.ask(XS_IS_DOMAIN_INTRODUCED, 0, b"5\0").unwrap(),
        b"T\0"
    );
    daemon.end(Signal::TERM);
}

#[test]
fn a_journal_goes_on_over_a_live_update() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path());
    let mut client = Raw::connect(&daemon.socket());
    client.ask(XS_WRITE, 0, b"/before\x001").unwrap();
    for step in [
        format!("live-update\0-f\0{PROGRAM}\0"),
        "live-update\0-s\0".to_owned(),
    ] {
        let answer = client.ask(cantle_abi::io::xs_wire::XS_CONTROL, 0, step.as_bytes());
        assert_eq!(answer.unwrap(), b"OK\0");
    }
    client.ask(XS_WRITE, 0, b"/after\x001").unwrap();
    assert!(daemon.log().contains("this program goes on"));
    daemon.end(Signal::KILL);
    let daemon = start(folder.path());
    let mut client = Raw::connect(&daemon.socket());
    for path in ["/before", "/after"] {
        assert_eq!(
            client
                .ask(XS_READ, 0, format!("{path}\0").as_bytes())
                .unwrap(),
            b"1"
        );
    }
}

#[test]
fn a_guest_comes_back_to_its_ring_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let domains = folder.path().join("domains");
    let journal = folder.path().join("journal");
    let start = || {
        let args = [
            "--journal".as_ref(),
            journal.as_os_str(),
            "--domains".as_ref(),
            domains.as_os_str(),
        ];
        Daemon::start(folder.path(), args)
    };
    let daemon = start();
    let mut dom0 = Raw::connect(&daemon.socket());
    let mut guest = Guest::introduced(&domains, DomId(7));
    dom0.ask(XS_WRITE, 0, b"/local/domain/7\0").unwrap();
    dom0.ask(XS_SET_PERMS, 0, b"/local/domain/7\0b7\0").unwrap();
    guest.ask(XS_WRITE, b"a\x001").unwrap();
    guest.ask(XS_WATCH, b"a\0token\0").unwrap();
    daemon.end(Signal::KILL);
    let memory = guest.memory.try_clone().unwrap();
    drop(guest);

    // Its ring stood between two messages, as its VMM knows: it goes on where it was, with its watch.
    let daemon = start();
    let mut guest = Guest::with_memory(&domains, DomId(7), memory.try_clone().unwrap(), false);
    assert_eq!(guest.ask(XS_READ, b"a\0").unwrap(), b"1");
    assert_eq!(
        guest.events.len(),
        1,
        "its watch has fired once, for what it may have missed"
    );
    let mut dom0 = Raw::connect(&daemon.socket());
    dom0.ask(XS_WRITE, 0, b"/local/domain/7/a\x002").unwrap();
    guest.ask(XS_READ, b"a\0").unwrap();
    assert_eq!(guest.events.len(), 2);
    daemon.end(Signal::KILL);
    drop(guest);

    // Where the VMM does not know, the guest is told that its connection is lost, and makes a new one.
    let daemon = start();
    let page = cantle_abi::PAGE_SIZE as u64;
    let field = |offset: usize| {
        let mut bytes = [0; 4];
        std::os::unix::fs::FileExt::read_at(&memory, &mut bytes, page + offset as u64).unwrap();
        u32::from_le_bytes(bytes)
    };
    use cantle_abi::io::xs_wire as page_of;
    let mut guest = Guest::with_memory(&domains, DomId(7), memory.try_clone().unwrap(), true);
    assert_eq!(
        field(page_of::XENSTORE_ERROR_OFFSET),
        page_of::XENSTORE_ERROR_COMM
    );
    guest.reconnect();
    assert_eq!(
        field(page_of::XENSTORE_ERROR_OFFSET),
        page_of::XENSTORE_ERROR_NONE
    );
    assert_eq!(guest.ask(XS_READ, b"a\0").unwrap(), b"2");
    assert!(guest.events.is_empty(), "a new connection has no watches");
    drop(daemon);
}
