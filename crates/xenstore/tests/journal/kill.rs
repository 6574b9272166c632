//! A process that is killed while it writes, again and again, on one folder: whatever it said was done is there.
//!
//! The process is this test, started anew with a folder in its environment. It counts upwards in nodes and in whole transactions, and
//! says each number on its standard output after the journal has it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use cantle_abi::io::xs_wire::*;
use cantle_xenstore::TxId;
use cantle_xenstore::journal::Options;

use crate::files::{ask, open};

const FOLDER: &str = "CANTLE_TEST_JOURNAL";
const KILLS: u32 = 150;
const OPTIONS: Options = Options {
    sync: false,
    compact_at: 5000,
};

/// What the killed process does; nothing where nobody has started it for that.
#[test]
fn child() {
    let Ok(dir) = std::env::var(FOLDER) else {
        return;
    };
    let (mut journal, mut server) = open(dir.as_ref(), OPTIONS);
    let dom0 = server.connect_socket();
    let mut number: u64 = ask(&mut server, dom0, XS_READ, "/last\0")
        .parse()
        .unwrap_or(0);
    let mut out = std::io::stdout();
    loop {
        number += 1;
        let tx = server
            .request(dom0, XS_TRANSACTION_START, TxId::NONE, b"\0")
            .unwrap();
        let tx: u32 = String::from_utf8_lossy(&tx)
            .trim_end_matches('\0')
            .parse()
            .unwrap();
        let padding = "x".repeat(usize::try_from(1 + number % 90).unwrap());
        for payload in [
            format!("/last\0{number}"),
            format!("/twice/{}/{padding}\0{number}", number % 20),
            format!("/mirror\0{number}"),
        ] {
            server
                .request(dom0, XS_WRITE, TxId(tx), payload.as_bytes())
                .unwrap();
        }
        server
            .request(dom0, XS_TRANSACTION_END, TxId(tx), b"T\0")
            .unwrap();
        if number.is_multiple_of(7) {
            ask(
                &mut server,
                dom0,
                XS_RM,
                &format!("/twice/{}\0", number % 20),
            );
        }
        journal.append(&mut server).unwrap();
        if writeln!(out, "acknowledged {number}").is_err() {
            return;
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kills() {
    let dir = tempfile::tempdir().unwrap();
    let mut last: u64 = 0;
    let mut seed: u64 = 0x5eed;
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child", "--nocapture"])
            .env(FOLDER, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            let said = lines.filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
            said.fold(None, |_, number: u64| Some(number))
        });
        // From before it has opened the folder to long after.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_micros(1000 + (seed >> 33) % 40_000));
        child.kill().unwrap();
        child.wait().unwrap();
        if let Some(said) = reader.join().unwrap() {
            assert!(
                said > last,
                "round {round}: it goes on from {last}, not {said}"
            );
            last = said;
        }
        let (_journal, mut server) = open(dir.path(), OPTIONS);
        let dom0 = server.connect_socket();
        let found = ask(&mut server, dom0, XS_READ, "/last\0")
            .parse()
            .unwrap_or(0);
        assert!(
            found >= last,
            "round {round}: {last} was acknowledged, {found} is there"
        );
        // A transaction is there as a whole.
        let mirror = ask(&mut server, dom0, XS_READ, "/mirror\0")
            .parse()
            .unwrap_or(0);
        assert_eq!(found, mirror, "round {round}");
        assert_eq!(ask(&mut server, dom0, XS_CONTROL, "check\0"), "OK\0");
        last = found;
    }
    assert!(last > 100, "it got to do something: {last}");
}
