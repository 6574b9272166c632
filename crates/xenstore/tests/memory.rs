//! What the store takes in memory, measured by an allocator that counts.
//!
//! Counted is what glibc's malloc takes for each request: eight bytes of its own more, in multiples of 16, at least 32.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
// UNSAFETY: an allocator is an unsafe trait; it passes everything on to the system's.
#![expect(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use cantle_abi::DomId;
use cantle_abi::io::xs_wire::{
    XS_DIRECTORY, XS_MKDIR, XS_SET_PERMS, XS_TRANSACTION_END, XS_TRANSACTION_START, XS_WRITE,
    XsType,
};
use cantle_xenstore::server::ConnId;
use cantle_xenstore::{Limits, Server, TxId};

struct Counting;

thread_local! {
    /// Bytes that this thread's tests hold, and how often they have asked for some.
    static HELD: Cell<i64> = const { Cell::new(0) };
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

fn chunk(size: usize) -> i64 {
    i64::try_from((size + 8).next_multiple_of(16).max(32)).unwrap()
}

// SAFETY: every call is the system allocator's own, with the caller's arguments; the counters are plain thread-local cells
// that allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.set(HELD.get() + chunk(layout.size()));
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's duties are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        HELD.set(HELD.get() - chunk(layout.size()));
        // SAFETY: the caller's duties are the same.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        HELD.set(HELD.get() + chunk(new_size) - chunk(layout.size()));
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's duties are the same.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Host {
    server: Server,
    dom0: ConnId,
    nodes: usize,
    /// Bytes of their names and values.
    text: usize,
}

impl Host {
    fn new() -> Self {
        let mut server = Server::with_limits(Limits {
            nodes: u32::MAX,
            memory: u32::MAX,
            ..Limits::DEFAULT
        });
        let dom0 = server.connect(DomId::DOM0, true);
        Self {
            server,
            dom0,
            nodes: 0,
            text: 0,
        }
    }

    fn ask(&mut self, op: XsType, tx: TxId, parts: &[&str]) -> Vec<u8> {
        let payload = parts.concat();
        self.server
            .request(self.dom0, op, tx, payload.as_bytes())
            .unwrap()
    }

    fn dir(&mut self, path: &str, perms: &str) {
        self.ask(XS_MKDIR, TxId::NONE, &[path, "\0"]);
        self.ask(XS_SET_PERMS, TxId::NONE, &[path, "\0", perms]);
        self.note(path, "");
    }

    fn leaf(&mut self, path: &str, value: &str) {
        self.ask(XS_WRITE, TxId::NONE, &[path, "\0", value]);
        self.note(path, value);
    }

    fn note(&mut self, path: &str, value: &str) {
        self.nodes += 1;
        self.text += path.rsplit('/').next().unwrap().len() + value.len();
    }

    /// What a toolstack and both drivers write for a guest with a disk and a network device: 60 nodes.
    fn domain(&mut self, domid: u16) {
        let home = format!("/local/domain/{domid}");
        let guest = format!("n{domid}\0r0\0");
        let back = format!("n0\0r{domid}\0");
        self.dir(&home, &guest);
        for (name, value) in [
            ("name", "guest-number"),
            ("domid", "17"),
            ("vm", "/vm/fe2f1bd5-4db2"),
        ] {
            self.leaf(&format!("{home}/{name}"), value);
        }
        for (name, keys) in [
            ("memory", &["target", "static-max", "videoram"][..]),
            ("console", &["ring-ref", "port", "limit", "type"][..]),
            ("control", &["shutdown", "feature-poweroff"][..]),
            ("cpu", &["availability"][..]),
            ("device", &[][..]),
        ] {
            self.dir(&format!("{home}/{name}"), &guest);
            for key in keys {
                self.leaf(&format!("{home}/{name}/{key}"), "some-value-1");
            }
        }
        for (class, device) in [("vbd", "51712"), ("vif", "0")] {
            let front = format!("{home}/device/{class}/{device}");
            self.dir(&format!("{home}/device/{class}"), &guest);
            self.dir(&front, &guest);
            self.leaf(
                &format!("{front}/backend"),
                &format!("/local/domain/0/backend/{class}/{domid}/{device}"),
            );
            for key in [
                "backend-id",
                "state",
                "handle",
                "event-channel",
                "ring-ref",
                "protocol",
            ] {
                self.leaf(&format!("{front}/{key}"), "12345678");
            }
            let backs = format!("/local/domain/0/backend/{class}/{domid}");
            self.dir(&backs, &back);
            let back_home = format!("{backs}/{device}");
            self.dir(&back_home, &back);
            self.leaf(
                &format!("{back_home}/frontend"),
                &format!("{home}/device/{class}/{device}"),
            );
            for key in ["frontend-id", "online", "state", "params", "feature-x"] {
                self.leaf(&format!("{back_home}/{key}"), "some-value-12");
            }
        }
        // The rest of what a guest writes about itself.
        self.dir(&format!("{home}/data"), &guest);
        for key in 0..6 {
            self.leaf(&format!("{home}/data/key-number-{key}"), "value-0123");
        }
    }
}

/// A host full of guests.
fn full(domains: u16) -> Host {
    let mut host = Host::new();
    for class in ["vbd", "vif"] {
        host.dir(&format!("/local/domain/0/backend/{class}"), "n0\0");
    }
    for domid in 1..=domains {
        host.domain(domid);
    }
    host
}

#[test]
fn a_node_takes_at_most_200_bytes_beyond_its_name_and_value() {
    let before = HELD.get();
    let host = full(1000);
    let held = HELD.get() - before;
    let nodes = i64::try_from(host.nodes).unwrap();
    let text = i64::try_from(host.text).unwrap();
    let each = (held - text) / nodes;
    println!(
        "{nodes} nodes, {} bytes of names and values each, {each} beyond them",
        text / nodes
    );
    assert!((60_000..61_000).contains(&nodes), "{nodes}");
    assert!(each <= 200, "{each} bytes a node");
}

/// How often `act` asks for memory.
fn asks(act: impl FnOnce()) -> u64 {
    let before = ASKED.get();
    act();
    ASKED.get() - before
}

#[test]
fn a_transaction_begins_in_constant_time_and_a_subtree_is_cloned_in_it() {
    let costs = |nodes: usize| {
        let mut host = Host::new();
        host.dir("/template", "n5\0");
        for number in 0..nodes / 10 {
            for key in 0..9 {
                host.leaf(
                    &format!("/template/dir{}/{number}/key{key}", number % 10),
                    "v",
                );
            }
        }
        let (server, dom0) = (&mut host.server, host.dom0);
        let mut begin = || {
            let tx = server.request(dom0, XS_TRANSACTION_START, TxId::NONE, b"\0");
            let text = String::from_utf8(tx.unwrap()).unwrap();
            TxId(text.trim_end_matches('\0').parse().unwrap())
        };
        // The first one makes room for the list of them.
        let first = begin();
        let mut second = TxId::NONE;
        let begun = asks(|| second = begin());
        for tx in [first, second] {
            server
                .request(dom0, XS_TRANSACTION_END, tx, b"F\0")
                .unwrap();
        }
        let template = server.capture("/template").unwrap();
        assert!(template.nodes() >= nodes);
        server
            .graft("/first", &template, &[(DomId(5), DomId(6))])
            .unwrap();
        let held = HELD.get();
        let grafted = asks(|| {
            let domains = [(DomId(5), DomId(7))];
            server.graft("/clone", &template, &domains).unwrap();
        });
        (begun, grafted, HELD.get() - held)
    };
    let (small, large) = (costs(100), costs(100_000));
    println!("begin, graft, bytes: {small:?} of 100 nodes, {large:?} of 100,000");
    assert_eq!(small.0, large.0, "to begin a transaction");
    assert_eq!(small.1, large.1, "to graft a subtree");
    assert!(large.2 < 2000, "{} bytes for a clone", large.2);
}

#[test]
#[ignore = "a measurement, for --release"]
fn lookups_and_edits_in_a_full_store() {
    use cantle_abi::io::xs_wire::XS_READ;
    use rustix::time::{ClockId, clock_gettime};
    let mut host = full(1000);
    let time = |what: &str, count: u32, act: &mut dyn FnMut(u32)| {
        // Time of this thread alone, whatever else runs here.
        let now = || {
            let time = clock_gettime(ClockId::ThreadCPUTime);
            time.tv_sec * 1_000_000_000 + time.tv_nsec
        };
        let begun = now();
        for number in 0..count {
            act(number);
        }
        println!("{what}: {} ns", (now() - begun) / i64::from(count));
    };
    let dom0 = host.dom0;
    let paths: Vec<_> = (1..=1000)
        .map(|domid| format!("/local/domain/{domid}/device/vbd/51712/state\0").into_bytes())
        .collect();
    let deep = |number: u32| &paths[number as usize * 7 % 1000];
    let hot = &paths[500];
    let server = &mut host.server;
    time("read, one path", 1_000_000, &mut |_| {
        server.request(dom0, XS_READ, TxId::NONE, hot).unwrap();
    });
    time("read, all domains", 1_000_000, &mut |number| {
        server
            .request(dom0, XS_READ, TxId::NONE, deep(number))
            .unwrap();
    });
    time("write, all domains", 1_000_000, &mut |number| {
        let payload = [&deep(number)[..], b"87654321"].concat();
        server
            .request(dom0, XS_WRITE, TxId::NONE, &payload)
            .unwrap();
    });
    time("list of 1000", 10_000, &mut |_| {
        server
            .request(
                dom0,
                XS_DIRECTORY,
                TxId::NONE,
                b"/local/domain/0/backend/vbd\0",
            )
            .unwrap();
    });
    time(
        "transaction of a read and a write",
        200_000,
        &mut |number| {
            let tx = server
                .request(dom0, XS_TRANSACTION_START, TxId::NONE, b"\0")
                .unwrap();
            let tx = TxId(
                std::str::from_utf8(&tx)
                    .unwrap()
                    .trim_end_matches('\0')
                    .parse()
                    .unwrap(),
            );
            server.request(dom0, XS_READ, tx, deep(number)).unwrap();
            let payload = [&deep(number)[..], b"87654321"].concat();
            server.request(dom0, XS_WRITE, tx, &payload).unwrap();
            server
                .request(dom0, XS_TRANSACTION_END, tx, b"T\0")
                .unwrap();
        },
    );
    let subtree = server.capture("/local/domain/1000").unwrap();
    time("graft of a guest", 1000, &mut |number| {
        let to = [(DomId(1000), DomId(u16::try_from(number + 2000).unwrap()))];
        let path = format!("/local/domain/{}", number + 2000);
        server.graft(&path, &subtree, &to).unwrap();
    });
    time("release of a grafted domain", 1000, &mut |number| {
        server
            .release(DomId(u16::try_from(number + 2000).unwrap()))
            .unwrap();
    });
    time("release of a domain", 900, &mut |number| {
        server
            .release(DomId(u16::try_from(number + 1).unwrap()))
            .unwrap();
    });
}
