//! One line of transactions, each begun when the one before it has ended: a counter that each adds one to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use cantle_abi::io::xs_wire::{
    XS_ERROR, XS_READ, XS_TRANSACTION_END, XS_TRANSACTION_START, XS_WRITE, XsType,
};

use crate::device::{Device, Reply};

/// What a lane waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Start,
    Read,
    Write,
    End,
    /// Nothing: no transaction is under way.
    Nothing,
}

/// What an answer amounts to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The transaction goes on.
    Under,
    /// It is committed.
    Committed,
    /// Another one came first; it begins anew.
    Again,
}

/// A lane, which has the file open for itself, and where its transaction stands.
pub(crate) struct Lane {
    device: Device,
    /// The counter's node, relative to the guest's own home.
    path: String,
    due: Due,
    tx: u32,
    /// The request that an answer is due to.
    request: u32,
}

impl Lane {
    pub(crate) fn new(path: String) -> io::Result<Self> {
        Ok(Self {
            device: Device::open()?,
            path,
            due: Due::Nothing,
            tx: 0,
            request: 0,
        })
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Whether no transaction is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.due == Due::Nothing
    }

    /// Begins a transaction.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        self.tx = 0;
        self.send(Due::Start, XS_TRANSACTION_START, b"\0")
    }

    /// An answer that is here.
    pub(crate) fn take(&mut self) -> io::Result<Option<Reply>> {
        self.device.take()
    }

    /// Takes note of an answer: it must be the one that is due.
    pub(crate) fn answered(&mut self, reply: &Reply) -> Result<Step, String> {
        if reply.req_id != self.request || self.is_idle() {
            let (got, due) = (reply.req_id, self.request);
            return Err(format!("an answer to request {got}, not {due}"));
        }
        if reply.kind == XS_ERROR {
            return self.refused(reply);
        }
        match self.due {
            Due::Start => {
                self.tx = number(&reply.payload)?;
                let path = format!("{}\0", self.path);
                self.send(Due::Read, XS_READ, path.as_bytes())?;
            }
            Due::Read => {
                let value = number(&reply.payload)? + 1;
                let write = format!("{}\0{value}", self.path);
                self.send(Due::Write, XS_WRITE, write.as_bytes())?;
            }
            Due::Write => self.send(Due::End, XS_TRANSACTION_END, b"T\0")?,
            Due::End | Due::Nothing => {
                self.due = Due::Nothing;
                return Ok(Step::Committed);
            }
        }
        Ok(Step::Under)
    }

    /// A commit that comes too late is begun anew; nothing else may be refused.
    fn refused(&mut self, reply: &Reply) -> Result<Step, String> {
        let why = String::from_utf8_lossy(&reply.payload);
        let why = why.trim_end_matches('\0');
        if self.due == Due::End && why == "EAGAIN" {
            self.start()?;
            return Ok(Step::Again);
        }
        let what = match self.due {
            Due::Start => "start",
            Due::Read => "read",
            Due::Write => "write",
            Due::End => "commit",
            Due::Nothing => "silence",
        };
        Err(format!("a {what} on {} was refused: {why}", self.path))
    }

    fn send(&mut self, due: Due, kind: XsType, payload: &[u8]) -> Result<(), String> {
        self.due = due;
        self.request = self.request.wrapping_add(1);
        self.device
            .send(kind, self.request, self.tx, payload)
            .map_err(|error| format!("/dev/xen/xenbus: {error}"))
    }
}

impl AsFd for Lane {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// A number in decimal, as xenstore has them; a NUL may follow.
pub(crate) fn number(text: &[u8]) -> Result<u32, String> {
    let text = String::from_utf8_lossy(text);
    let digits = text.trim_end_matches('\0');
    digits
        .parse()
        .map_err(|_| format!("{digits:?} is no number"))
}
