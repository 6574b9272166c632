//! The form of frames on a stream: four bytes of length, big-endian, and the frame.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use rustix::net::{SendFlags, send};

use crate::port::FRAME_MAX;

const LENGTH_LEN: usize = 4;
/// An Ethernet header.
const FRAME_MIN: usize = 14;
/// Bytes that are read at once; any frame fits.
const ROOM: usize = 256 << 10;
/// From so many bytes on, what was gathered is written before more is.
pub(super) const WRITE_FROM: usize = 256 << 10;

/// What came and is not given yet.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// As large as `ROOM`, once something came.
    bytes: Vec<u8>,
    /// What is not given yet is from here
    start: usize,
    /// to here.
    end: usize,
}

impl Incoming {
    /// The next frame, if it is all there. Reads when it is not.
    ///
    /// # Errors
    ///
    /// The peer is gone, or says a length that no frame has.
    pub(super) fn next(&mut self, socket: &UnixStream) -> io::Result<Option<&[u8]>> {
        let len = loop {
            if let Some(len) = self.complete()? {
                break len;
            }
            if !self.fill(socket)? {
                return Ok(None);
            }
        };
        let from = self.start + LENGTH_LEN;
        self.start = from + len;
        Ok(self.bytes.get(from..self.start))
    }

    /// The length of the frame that is first, if it is all there.
    fn complete(&self) -> io::Result<Option<usize>> {
        let bytes = self.bytes.get(self.start..self.end).unwrap_or_default();
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_LEN>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if !(FRAME_MIN..=FRAME_MAX).contains(&length) {
            let why = format!("the peer sends a frame of {length} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok((rest.len() >= length).then_some(length))
    }

    /// Reads once; false where nothing waits.
    fn fill(&mut self, mut socket: &UnixStream) -> io::Result<bool> {
        if self.bytes.is_empty() {
            self.bytes.resize(ROOM, 0);
        }
        // What is left is less than a frame, so this makes room, and moves little.
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let room = self.bytes.get_mut(self.end..).unwrap_or_default();
        match socket.read(room) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.end += read;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    /// How much of it is.
    written: usize,
    /// Where each frame begins, and whose it is.
    starts: Vec<(usize, usize)>,
}

impl Outgoing {
    /// Appends a frame, of the caller's number `index`.
    pub(super) fn push(&mut self, frame: &[u8], index: usize) {
        let Ok(len) = u32::try_from(frame.len()) else {
            return;
        };
        self.starts.push((self.bytes.len(), index));
        self.bytes.extend(len.to_be_bytes());
        self.bytes.extend_from_slice(frame);
    }

    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes as much as the peer takes.
    ///
    /// # Errors
    ///
    /// The peer is gone.
    pub(super) fn write(&mut self, socket: &UnixStream) -> io::Result<()> {
        while let Some(rest) = self
            .bytes
            .get(self.written..)
            .filter(|rest| !rest.is_empty())
        {
            match send(socket, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(written) => self.written += written,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Drops the frames of which nothing is written, and gives the number of each to `lost`. At most the end of one frame is left.
    pub(super) fn drop_unbegun(&mut self, mut lost: impl FnMut(usize)) {
        if self.is_empty() {
            self.bytes.clear();
            self.starts.clear();
            self.written = 0;
            return;
        }
        let unbegun = self.starts.iter().position(|(at, _)| *at >= self.written);
        if let Some(first) = unbegun {
            let starts = self.starts.split_off(first);
            if let Some((at, _)) = starts.first() {
                self.bytes.truncate(*at);
            }
            for (_, index) in starts {
                lost(index);
            }
        }
        self.bytes.drain(..self.written);
        self.written = 0;
        self.starts.clear();
    }
}
