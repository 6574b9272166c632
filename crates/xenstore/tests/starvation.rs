//! XSA-206: nobody's transactions are starved by others' writes, and nobody is stopped by what is done against that.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use cantle_abi::io::xs_wire::{
    XS_CONTROL, XS_MKDIR, XS_READ, XS_SET_PERMS, XS_TRANSACTION_END, XS_TRANSACTION_START,
    XS_WRITE, XsType,
};
use cantle_abi::{DomId, Errno};
use cantle_xenstore::server::ConnId;
use cantle_xenstore::{Server, TxId, wire};

/// More failures than it takes before others wait.
const TRIES: u32 = 12;
/// More attempts and requests than anybody waits for one who does nothing, or for a guest.
const WAIT: u32 = 10_000;

struct World {
    server: Server,
    dom0: ConnId,
    /// A guest that writes `/g` all the time, as bytes through a transport, and what it has not got rid of.
    writer: ConnId,
    unsent: Vec<u8>,
    written: u32,
}

impl World {
    /// `/g` is for everybody to read and to write.
    fn new(writer_is_privileged: bool) -> Self {
        let mut server = Server::new();
        let dom0 = server.connect(DomId::DOM0, true);
        let writer = server.connect(DomId(7), writer_is_privileged);
        let mut world = Self {
            server,
            dom0,
            writer,
            unsent: Vec::new(),
            written: 0,
        };
        for dir in ["/g", "/h"] {
            world.ask(dom0, XS_MKDIR, TxId::NONE, dir).unwrap();
            let perms = format!("{dir}\0b0");
            world.ask(dom0, XS_SET_PERMS, TxId::NONE, &perms).unwrap();
        }
        world
    }

    fn ask(&mut self, conn: ConnId, op: XsType, tx: TxId, text: &str) -> Result<Vec<u8>, Errno> {
        let payload = match op {
            XS_WRITE => text.replacen('=', "\0", 1),
            _ => format!("{text}\0"),
        };
        self.server.request(conn, op, tx, payload.as_bytes())
    }

    /// The writer tries to write something new; whether it could.
    fn noise(&mut self) -> bool {
        if self.unsent.is_empty() {
            self.written += 1;
            let value = self.written.to_string();
            let parts = [&b"/g\0"[..], value.as_bytes()];
            wire::emit(&mut self.unsent, XS_WRITE, 0, 0, &parts).unwrap();
        }
        let taken = self.server.feed(self.writer, &self.unsent).unwrap();
        self.unsent.drain(..taken);
        let waiting = self.server.output(self.writer, 4096).len();
        self.server.consume_output(self.writer, waiting);
        taken > 0
    }

    fn begin(&mut self, conn: ConnId) -> TxId {
        let id = self
            .ask(conn, XS_TRANSACTION_START, TxId::NONE, "")
            .unwrap();
        let text = std::str::from_utf8(&id).unwrap().trim_end_matches('\0');
        TxId(text.parse().unwrap())
    }

    /// A large transaction that reads `/g`, and is disturbed after each of its requests.
    fn large(&mut self, conn: ConnId) -> Result<(), Errno> {
        let tx = self.begin(conn);
        self.noise();
        self.ask(conn, XS_READ, tx, "/g").unwrap();
        self.noise();
        for number in 0..50 {
            self.ask(conn, XS_WRITE, tx, &format!("/h/{number}=x"))
                .unwrap();
            self.noise();
        }
        self.ask(conn, XS_TRANSACTION_END, tx, "T").map(drop)
    }

    fn tries(&mut self, conn: ConnId, most: u32) -> Option<u32> {
        (1..=most).find(|_| self.large(conn) == Ok(()))
    }

    fn check(&mut self) {
        let verdict = self.ask(self.dom0, XS_CONTROL, TxId::NONE, "check");
        assert_eq!(verdict.unwrap(), b"OK\0");
    }
}

#[test]
fn xsa_206_a_guest_that_writes_all_the_time_starves_no_transaction() {
    for reader_is_dom0 in [true, false] {
        let mut world = World::new(false);
        let reader = if reader_is_dom0 {
            world.dom0
        } else {
            world.server.connect(DomId(8), false)
        };
        for _ in 0..5 {
            let tries = world.tries(reader, TRIES);
            assert!(tries.is_some(), "within {TRIES} tries");
        }
        // When it is over, the writer is told of it, and can write again.
        assert!(world.server.take_ready().contains(&world.writer));
        assert!(world.noise());
        world.check();
    }
}

#[test]
fn xsa_206_and_a_second_writer_makes_it_one_try_more() {
    let mut world = World::new(false);
    let other = world.server.connect(DomId(9), false);
    let mut tries = 0;
    loop {
        let tx = world.begin(world.dom0);
        world.ask(world.dom0, XS_READ, tx, "/g").unwrap();
        world.ask(world.dom0, XS_WRITE, tx, "/h/x=y").unwrap();
        tries += 1;
        // The second begins when the first is held up.
        if !world.noise() {
            let mut bytes = Vec::new();
            let value = tries.to_string();
            let parts = [&b"/g\0"[..], value.as_bytes()];
            wire::emit(&mut bytes, XS_WRITE, 0, 0, &parts).unwrap();
            world.server.feed(other, &bytes).unwrap();
        }
        if world.ask(world.dom0, XS_TRANSACTION_END, tx, "T").is_ok() {
            break;
        }
        assert!(tries <= TRIES + 1);
    }
}

/// Until others wait for it.
fn make_it_lose(world: &mut World, conn: ConnId) -> Option<TxId> {
    for _ in 0..TRIES {
        let tx = world.begin(conn);
        world.ask(conn, XS_READ, tx, "/g").unwrap();
        world.ask(conn, XS_WRITE, tx, "/h/x=y").unwrap();
        if !world.noise() {
            return Some(tx);
        }
        let result = world.ask(conn, XS_TRANSACTION_END, tx, "T");
        assert_eq!(result, Err(Errno::EAGAIN));
    }
    None
}

#[test]
fn xsa_206_a_transaction_that_is_never_ended_stops_nobody_for_ever() {
    let mut world = World::new(false);
    let dom0 = world.dom0;
    let tx = make_it_lose(&mut world, dom0).unwrap();
    assert!((0..WAIT).any(|_| world.noise()));
    // Then it has lost, and begins anew.
    let result = world.ask(dom0, XS_TRANSACTION_END, tx, "T");
    assert_eq!(result, Err(Errno::EAGAIN));
    assert!(world.tries(dom0, 1).is_none());
    assert!(world.tries(dom0, TRIES).is_some());
}

#[test]
fn xsa_206_one_who_is_gone_is_not_waited_for() {
    let mut world = World::new(false);
    let dom0 = world.server.connect(DomId::DOM0, true);
    make_it_lose(&mut world, dom0).unwrap();
    world.server.disconnect(dom0);
    assert!(world.noise());
}

#[test]
fn xsa_206_a_guest_is_waited_for_by_guests_and_not_for_long() {
    let mut world = World::new(false);
    let guest = world.server.connect(DomId(8), false);
    let tx = make_it_lose(&mut world, guest).unwrap();
    // However busy it keeps itself.
    let went_on = (0..WAIT).any(|_| {
        let _ = world.ask(guest, XS_READ, tx, "/h");
        world.noise()
    });
    assert!(went_on);

    let mut world = World::new(true);
    let guest = world.server.connect(DomId(8), false);
    assert_eq!(
        make_it_lose(&mut world, guest),
        None,
        "domain 0 does not wait"
    );
}

#[test]
fn xsa_206_who_disturbs_himself_is_not_waited_for() {
    let mut world = World::new(false);
    let guest = world.server.connect(DomId(8), false);
    for round in 0..50 {
        let txs: Vec<_> = (0..5).map(|_| world.begin(guest)).collect();
        for tx in &txs {
            world.ask(guest, XS_READ, *tx, "/g").unwrap();
            world.ask(guest, XS_WRITE, *tx, "/h/x=y").unwrap();
        }
        // One write of another is one failure, however many it makes fail.
        if round == 25 {
            assert!(world.noise());
        }
        let value = format!("/g={round}");
        world.ask(guest, XS_WRITE, TxId::NONE, &value).unwrap();
        for tx in txs {
            let result = world.ask(guest, XS_TRANSACTION_END, tx, "T");
            assert_eq!(result, Err(Errno::EAGAIN));
        }
    }
    let tx = world.begin(guest);
    assert!(world.noise());
    world.ask(guest, XS_TRANSACTION_END, tx, "F").unwrap();
}
