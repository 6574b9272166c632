//! What an operator asks of the server, and what it answers, byte by byte.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use cantle_abi::io::xs_wire::{XS_CONTROL, XS_ERROR, XS_READ, XS_WRITE, XsType};
use cantle_abi::{DomId, Errno};
use cantle_xenstore::TxId;
use cantle_xenstore::server::{Action, ConnId, HostCommand, Server};
use cantle_xenstore::wire::{Message, emit};

const GUEST: DomId = DomId(5);

fn send(server: &mut Server, conn: ConnId, op: XsType, payload: &[u8]) {
    let mut bytes = Vec::new();
    emit(&mut bytes, op, 77, 0, &[payload]).unwrap();
    assert_eq!(server.feed(conn, &bytes), Ok(bytes.len()));
}

/// What waits, as one message's kind and payload; `None` where nothing waits.
fn received(server: &mut Server, conn: ConnId) -> Option<(XsType, String)> {
    let bytes = server.output(conn, usize::MAX).to_vec();
    let (message, rest) = Message::parse(&bytes).unwrap()?;
    assert!(rest.is_empty());
    server.consume_output(conn, bytes.len());
    assert_eq!(message.header.req_id, 77);
    let text = String::from_utf8(message.payload.to_vec()).unwrap();
    Some((message.header.kind, text.replace('\0', "|")))
}

/// Sends one request and returns the reply's payload; an error's is preceded by a `!`.
fn ask(server: &mut Server, conn: ConnId, op: XsType, payload: &[u8]) -> String {
    send(server, conn, op, payload);
    match received(server, conn).unwrap() {
        (XS_ERROR, text) => format!("!{}", text.trim_end_matches('|')),
        (kind, text) => {
            assert_eq!(kind, op);
            text
        }
    }
}

#[test]
fn a_command_for_the_host_is_answered_by_it() {
    let mut server = Server::new();
    let s = &mut server;
    let dom0 = s.connect(DomId::DOM0, true);
    for (payload, wanted) in [
        (&b"print\0hello\0"[..], HostCommand::Print("hello".into())),
        (b"logfile\0/a/b\0", HostCommand::LogFile("/a/b".into())),
        (b"memreport\0", HostCommand::MemReport(None)),
        (
            b"memreport\0/a\0",
            HostCommand::MemReport(Some("/a".into())),
        ),
        (
            b"live-update\0-s\0-t\x0010\0-F\0",
            HostCommand::LiveUpdate(vec!["-s".into(), "-t".into(), "10".into(), "-F".into()]),
        ),
    ] {
        send(s, dom0, XS_CONTROL, payload);
        assert_eq!(received(s, dom0), None, "the host has not answered");
        let Some(Action::Control { ticket, command }) = s.take_action() else {
            panic!("nothing for the host");
        };
        assert_eq!(command, wanted);
        s.answer(ticket, Ok(b"done\0".to_vec()));
        assert_eq!(received(s, dom0), Some((XS_CONTROL, "done|".to_owned())));
    }
}

#[test]
fn a_host_may_refuse_or_answer_too_much_or_too_late() {
    let mut server = Server::new();
    let s = &mut server;
    let dom0 = s.connect(DomId::DOM0, true);
    for (answer, wanted) in [
        (Err(Errno::EBUSY), "EBUSY|"),
        (Ok(vec![b'x'; 4097]), "E2BIG|"),
    ] {
        send(s, dom0, XS_CONTROL, b"print\0x\0");
        let Some(Action::Control { ticket, .. }) = s.take_action() else {
            panic!("nothing for the host");
        };
        s.answer(ticket, answer);
        assert_eq!(received(s, dom0), Some((XS_ERROR, wanted.to_owned())));
    }
    send(s, dom0, XS_CONTROL, b"print\0x\0");
    let Some(Action::Control { ticket, .. }) = s.take_action() else {
        panic!("nothing for the host");
    };
    s.disconnect(dom0);
    s.answer(ticket, Ok(Vec::new()));
    assert!(!s.has_output(dom0));
}

#[test]
fn commands_that_wait_for_the_host_are_bounded() {
    let mut server = Server::new();
    let s = &mut server;
    let dom0 = s.connect(DomId::DOM0, true);
    for _ in 0..64 {
        send(s, dom0, XS_CONTROL, b"print\0x\0");
    }
    assert_eq!(ask(s, dom0, XS_CONTROL, b"print\0x\0"), "!EBUSY");
    let Some(Action::Control { ticket, .. }) = s.take_action() else {
        panic!("nothing for the host");
    };
    s.answer(ticket, Ok(b"OK\0".to_vec()));
    assert_eq!(received(s, dom0), Some((XS_CONTROL, "OK|".to_owned())));
    send(s, dom0, XS_CONTROL, b"print\0x\0");
    assert_eq!(received(s, dom0), None);
}

#[test]
fn a_client_in_this_process_has_no_host() {
    let mut server = Server::new();
    let dom0 = server.connect(DomId::DOM0, true);
    let answer = server.request(dom0, XS_CONTROL, TxId::NONE, b"print\0x\0");
    assert_eq!(answer, Err(Errno::ENOSYS));
    assert_eq!(server.take_action(), None);
}

#[test]
fn figures_by_domain() {
    let mut server = Server::new();
    let s = &mut server;
    let dom0 = s.connect(DomId::DOM0, true);
    let guest = s.connect(GUEST, false);
    assert_eq!(ask(s, guest, XS_READ, b"/nowhere\0"), "!EACCES");
    assert_eq!(ask(s, dom0, XS_WRITE, b"/a\0value"), "OK|");
    let stats = s.stats();
    assert_eq!(stats.len(), 2);
    assert_eq!((stats[0].domid, stats[1].domid), (DomId::DOM0, GUEST));
    let figures = |n: usize| (stats[n].connections, stats[n].requests, stats[n].errors);
    assert_eq!((figures(0), figures(1)), ((1, 1, 0), (1, 1, 1)));
    assert_eq!((stats[0].nodes, stats[1].nodes), (6, 0));

    assert_eq!(ask(s, dom0, XS_CONTROL, b"stats\x006\0"), "");
    let text = ask(s, dom0, XS_CONTROL, b"stats\x005\0");
    assert_eq!(text, "5 1 1 1 0 0 28720 0 0 0\n");
    s.disconnect(guest);
    assert_eq!(
        s.stats().len(),
        1,
        "an unknown domain ends with its connection"
    );
    s.disconnect(dom0);
    assert_eq!(s.stats()[0].requests, 3, "dom0's connections come and go");
}
