//! `/dev/xen/xenbus`: Linux's way to xenstore for programs.
//!
//! The kernel shares its one ring among all who have the file open, takes one whole message by each write, and gives answers back as
//! a stream of bytes. A second request of one opener must wait for the first one's answer: Linux keeps both in the same place,
//! and would send the second's payload for the first.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use cantle_abi::io::xs_wire::{XsType, XsdSockmsg};
use rustix::fs::OFlags;
use zerocopy::{FromBytes, IntoBytes};

const PATH: &str = "/dev/xen/xenbus";
const HEADER: usize = size_of::<XsdSockmsg>();
/// As long as a payload may be.
const PAYLOAD_MAX: usize = 4096;

/// An answer.
pub(crate) struct Reply {
    pub(crate) kind: XsType,
    pub(crate) req_id: u32,
    pub(crate) payload: Vec<u8>,
}

/// The file, opened once.
pub(crate) struct Device {
    file: File,
    unread: VecDeque<u8>,
}

impl Device {
    pub(crate) fn open() -> io::Result<Self> {
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nonblocking)
            .open(PATH)?;
        Ok(Self {
            file,
            unread: VecDeque::new(),
        })
    }

    /// Sends a request, and does not wait for its answer.
    pub(crate) fn send(
        &mut self,
        kind: XsType,
        req_id: u32,
        tx_id: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        let len = u32::try_from(payload.len()).map_err(|_| ErrorKind::InvalidInput)?;
        let header = XsdSockmsg {
            kind,
            req_id,
            tx_id,
            len,
        };
        let message = [header.as_bytes(), payload].concat();
        self.file.write_all(&message)
    }

    /// The next answer that is here already.
    pub(crate) fn take(&mut self) -> io::Result<Option<Reply>> {
        loop {
            if let Some(reply) = self.whole()? {
                return Ok(Some(reply));
            }
            let mut bytes = [0; HEADER + PAYLOAD_MAX];
            match self.file.read(&mut bytes) {
                Ok(len) => self.unread.extend(bytes.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn whole(&mut self) -> io::Result<Option<Reply>> {
        let bytes = self.unread.make_contiguous();
        let Ok((header, rest)) = XsdSockmsg::read_from_prefix(bytes) else {
            return Ok(None);
        };
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        if len > PAYLOAD_MAX {
            return Err(ErrorKind::InvalidData.into());
        }
        let Some(payload) = rest.get(..len) else {
            return Ok(None);
        };
        let reply = Reply {
            kind: header.kind,
            req_id: header.req_id,
            payload: payload.to_vec(),
        };
        self.unread.drain(..HEADER + len);
        Ok(Some(reply))
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
