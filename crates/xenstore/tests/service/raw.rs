//! A served store, and a client that knows nothing but bytes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use cantle_abi::io::xs_wire::{XS_READ, XS_WATCH_EVENT, XS_WRITE, XsType};
use cantle_xenstore::transport::listen;
use cantle_xenstore::wire::{HEADER_SIZE, Message, emit};
use cantle_xenstore::{Service, Shared};

/// One message, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) kind: XsType,
    pub(crate) req_id: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    next: u32,
}

impl Client {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self { stream, next: 1 }
    }

    pub(crate) fn message(&mut self, op: XsType, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        emit(&mut bytes, op, self.next, 0, &[payload]).unwrap();
        self.next += 1;
        bytes
    }

    pub(crate) fn send(&mut self, op: XsType, payload: &[u8]) {
        let bytes = self.message(op, payload);
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next message; `None` at the end.
    pub(crate) fn receive(&mut self) -> Option<Reply> {
        let mut bytes = vec![0; HEADER_SIZE];
        self.stream.read_exact(&mut bytes).ok()?;
        let whole = Message::length(&bytes).unwrap().unwrap();
        bytes.resize(whole, 0);
        self.stream.read_exact(&mut bytes[HEADER_SIZE..]).ok()?;
        let (message, _) = Message::parse(&bytes).unwrap().unwrap();
        Some(Reply {
            kind: message.header.kind,
            req_id: message.header.req_id,
            payload: message.payload.to_vec(),
        })
    }

    /// The answer to one request; events in between are dropped.
    pub(crate) fn ask(&mut self, op: XsType, payload: &[u8]) -> Reply {
        let req_id = self.next;
        self.send(op, payload);
        loop {
            let reply = self.receive().expect("the connection lives");
            if reply.kind != XS_WATCH_EVENT {
                assert_eq!(reply.req_id, req_id);
                return reply;
            }
        }
    }

    pub(crate) fn write(&mut self, path: &str, value: &[u8]) {
        let payload = [path.as_bytes(), b"\0", value].concat();
        let reply = self.ask(XS_WRITE, &payload);
        assert_eq!((reply.kind, &reply.payload[..]), (XS_WRITE, &b"OK\0"[..]));
    }

    pub(crate) fn read(&mut self, path: &str) -> Vec<u8> {
        let reply = self.ask(XS_READ, format!("{path}\0").as_bytes());
        assert_eq!(reply.kind, XS_READ, "{:?}", reply.payload);
        reply.payload
    }
}

/// A service in a thread of its own.
pub(crate) struct Daemon {
    pub(crate) store: Shared,
    pub(crate) path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Daemon {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let store = Shared::default();
        let mut service = Service::new(store.clone()).unwrap();
        service.listen(listen::bind(&path).unwrap(), None).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                service.run_once(Some(Duration::from_millis(20))).unwrap();
            }
        });
        Self {
            store,
            path,
            stop,
            thread: Some(thread),
            _directory: directory,
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(UnixStream::connect(&self.path).unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}
