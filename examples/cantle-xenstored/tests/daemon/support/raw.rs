//! A client that speaks bytes, so that a test sees each reply and event as it comes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use cantle_abi::io::xs_wire::{XS_TRANSACTION_START, XS_WATCH_EVENT, XsType};
use cantle_xenstore::wire::{HEADER_SIZE, Message, emit, reply};

/// One message, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) kind: XsType,
    pub(crate) req_id: u32,
    pub(crate) payload: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) stream: UnixStream,
    next: u32,
    /// Events that came while an answer was waited for.
    pub(crate) events: Vec<Vec<u8>>,
}

impl Raw {
    pub(crate) fn connect(path: &Path) -> Self {
        Self::try_connect(path).unwrap()
    }

    pub(crate) fn try_connect(path: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(super::PATIENCE))?;
        Ok(Self {
            stream,
            next: 1,
            events: Vec::new(),
        })
    }

    /// A request's bytes.
    pub(crate) fn message(&mut self, op: XsType, tx: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        emit(&mut bytes, op, self.next, tx, &[payload]).unwrap();
        self.next += 1;
        bytes
    }

    /// Sends a request without waiting; its number.
    pub(crate) fn send(&mut self, op: XsType, tx: u32, payload: &[u8]) -> std::io::Result<u32> {
        let req_id = self.next;
        let bytes = self.message(op, tx, payload);
        self.stream.write_all(&bytes)?;
        Ok(req_id)
    }

    pub(crate) fn receive(&mut self) -> std::io::Result<Received> {
        let mut bytes = vec![0; HEADER_SIZE];
        self.stream.read_exact(&mut bytes)?;
        let whole = Message::length(&bytes).unwrap().unwrap();
        bytes.resize(whole, 0);
        self.stream.read_exact(&mut bytes[HEADER_SIZE..])?;
        let (message, _) = Message::parse(&bytes).unwrap().unwrap();
        Ok(Received {
            kind: message.header.kind,
            req_id: message.header.req_id,
            payload: message.payload.to_vec(),
        })
    }

    /// One request and its answer, which has to be the next that comes but for events.
    pub(crate) fn try_ask(
        &mut self,
        op: XsType,
        tx: u32,
        payload: &[u8],
    ) -> std::io::Result<Result<Vec<u8>, String>> {
        let req_id = self.send(op, tx, payload)?;
        loop {
            let received = self.receive()?;
            if received.kind == XS_WATCH_EVENT {
                self.events.push(received.payload);
                continue;
            }
            assert_eq!(received.req_id, req_id, "answers come in order, each once");
            let answer = reply(received.kind, &received.payload).map(<[u8]>::to_vec);
            return Ok(answer.map_err(|errno| errno.name().unwrap_or("?").to_owned()));
        }
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, op: XsType, tx: u32, payload: &[u8]) -> Result<Vec<u8>, String> {
        self.try_ask(op, tx, payload).unwrap()
    }
    pub(crate) fn begin(&mut self) -> u32 {
        let id = self.ask(XS_TRANSACTION_START, 0, b"\0").unwrap();
        let text = String::from_utf8(id).unwrap();
        text.trim_end_matches('\0').parse().unwrap()
    }
}
