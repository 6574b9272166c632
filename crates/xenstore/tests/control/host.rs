//! Commands that the host carries out.

use cantle_abi::io::xs_wire::{XS_CONTROL, XS_ERROR};
use cantle_abi::{DomId, Errno};
use cantle_xenstore::TxId;
use cantle_xenstore::server::{Action, HostCommand, Server};

use crate::support::{ask, received, send};

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
