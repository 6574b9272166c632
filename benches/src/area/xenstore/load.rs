//! Load on a Unix socket by many connections at once, in one thread through one io_uring, so that the generator takes less than
//! what it measures.

// UNSAFETY: the kernel reads and writes buffers whose addresses it is given.
#![expect(unsafe_code)]

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cantle_abi::io::xs_wire::XS_ERROR;
use cantle_xenstore::wire::Message;
use io_uring::{IoUring, opcode, squeue, types};

use super::script::{Counts, Script};

const INBOX: usize = 64 * 1024;
const SENDING: u64 = 1 << 32;

/// Connections, each with its script.
pub(super) struct Load {
    /// Before the buffers, so that the kernel has let go of them when they are freed.
    uring: IoUring,
    lanes: Vec<Lane>,
}

struct Lane {
    stream: UnixStream,
    script: Script,
    inbox: Box<[u8]>,
    have: usize,
    receiving: bool,
    /// What is to be sent when the send in flight is done.
    out: Vec<u8>,
    in_flight: Vec<u8>,
    sending: bool,
}

impl Load {
    /// Connects once for each script.
    pub(super) fn connect(socket: &Path, scripts: Vec<Script>) -> Result<Self> {
        let talks = scripts
            .into_iter()
            .map(|script| Ok((dial(socket)?, script)))
            .collect::<Result<_>>()?;
        Self::over(talks)
    }

    /// Takes connections that stand already.
    pub(super) fn over(talks: Vec<(UnixStream, Script)>) -> Result<Self> {
        let entries = u32::try_from(talks.len() * 2)?.next_power_of_two().max(8);
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(entries)
            .or_else(|_| IoUring::new(entries))
            .context("no io_uring")?;
        let lanes = talks
            .into_iter()
            .map(|(stream, script)| Lane {
                stream,
                script,
                inbox: vec![0; INBOX].into(),
                have: 0,
                receiving: false,
                out: Vec::new(),
                in_flight: Vec::new(),
                sending: false,
            })
            .collect();
        Ok(Self { uring, lanes })
    }

    /// Works for about `slice`, and then until every answer is there; operations and the time that they took.
    pub(super) fn run(&mut self, slice: Duration) -> Result<(Counts, Duration)> {
        self.until(&mut |_, elapsed| elapsed >= slice)
    }

    /// Waits until so many operations are done, of connections that only listen.
    pub(super) fn hear(&mut self, operations: u64) -> Result<()> {
        let (counts, _) = self.until(&mut |counts, _| counts.done >= operations)?;
        ensure!(
            counts.done == operations,
            "{} events came instead of {operations}",
            counts.done
        );
        Ok(())
    }

    fn until(
        &mut self,
        enough: &mut dyn FnMut(&Counts, Duration) -> bool,
    ) -> Result<(Counts, Duration)> {
        let begun = Instant::now();
        let mut counts = Counts::default();
        let mut begin = true;
        for n in 0..self.lanes.len() {
            self.proceed(n, begin)?;
        }
        loop {
            let elapsed = begun.elapsed();
            if begin && enough(&counts, elapsed) {
                begin = false;
            }
            if !begin && !self.lanes.iter().any(Lane::is_busy) {
                return Ok((counts, elapsed));
            }
            self.wait()?;
            let completed: Vec<(u64, i32)> = self
                .uring
                .completion()
                .map(|entry| (entry.user_data(), entry.result()))
                .collect();
            for (tag, result) in completed {
                let n = usize::try_from(tag & (SENDING - 1))?;
                let lane = self.lanes.get_mut(n).context("a lane")?;
                if result <= 0 {
                    bail!("connection {n} ended: {result}");
                }
                let bytes = usize::try_from(result)?;
                if tag & SENDING != 0 {
                    lane.has_sent(bytes);
                } else {
                    lane.has_received(bytes, &mut counts)?;
                }
                self.proceed(n, begin)?;
            }
        }
    }

    fn wait(&mut self) -> Result<()> {
        let patience = types::Timespec::new().sec(20);
        let args = types::SubmitArgs::new().timespec(&patience);
        self.uring
            .submitter()
            .submit_with_args(1, &args)
            .context("no answer in 20 s")?;
        Ok(())
    }

    /// Gives the kernel what a connection has to do.
    fn proceed(&mut self, n: usize, begin: bool) -> Result<()> {
        let lane = self.lanes.get_mut(n).context("a lane")?;
        let fd = types::Fd(lane.stream.as_raw_fd());
        lane.script.fill(begin, &mut lane.out);
        if lane.in_flight.is_empty() && !lane.out.is_empty() {
            core::mem::swap(&mut lane.out, &mut lane.in_flight);
        }
        let tag = u64::try_from(n)?;
        let mut entries: [Option<squeue::Entry>; 2] = [None, None];
        if !lane.sending && !lane.in_flight.is_empty() {
            lane.sending = true;
            let len = u32::try_from(lane.in_flight.len())?;
            entries[0] = Some(
                opcode::Send::new(fd, lane.in_flight.as_ptr(), len)
                    .flags(libc::MSG_WAITALL)
                    .build()
                    .user_data(tag | SENDING),
            );
        }
        if !lane.receiving {
            lane.receiving = true;
            let free = &mut lane.inbox[lane.have..];
            entries[1] = Some(
                opcode::Recv::new(fd, free.as_mut_ptr(), u32::try_from(free.len())?)
                    .build()
                    .user_data(tag),
            );
        }
        for entry in entries.iter().flatten() {
            // SAFETY: one send and one receive of a connection are in flight at a time, and their buffers are left alone until
            // their completion: `sending` and `receiving` say so. The ring is dropped before the buffers.
            while unsafe { self.uring.submission().push(entry) }.is_err() {
                self.uring.submit()?;
            }
        }
        Ok(())
    }
}

impl Lane {
    fn is_busy(&self) -> bool {
        self.script.is_busy() || !self.in_flight.is_empty()
    }

    fn has_sent(&mut self, bytes: usize) {
        if bytes < self.in_flight.len() {
            self.in_flight.drain(..bytes);
        } else {
            self.in_flight.clear();
        }
        self.sending = false;
    }

    fn has_received(&mut self, bytes: usize, counts: &mut Counts) -> Result<()> {
        self.receiving = false;
        self.have += bytes;
        let mut rest = self.inbox.get(..self.have).context("more than fits")?;
        while let Some((message, after)) = Message::parse(rest)? {
            self.script.take(&message, counts)?;
            rest = after;
        }
        let (left, used) = (rest.len(), self.have - rest.len());
        self.inbox.copy_within(used..self.have, 0);
        self.have = left;
        Ok(())
    }
}

/// A connection.
pub(super) fn dial(socket: &Path) -> Result<UnixStream> {
    UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))
}

/// Sends requests on a connection that nobody reads from yet, and takes so many messages.
pub(super) fn converse(stream: &UnixStream, requests: &[u8], answers: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut taken, mut seen, mut sent) = (0, 0, 0);
    let mut stream = stream;
    let mut piece = vec![0; INBOX];
    while seen < answers {
        // Not so much at once that both sides wait for the other to read.
        if let Some(more) = requests.get(sent..).filter(|more| !more.is_empty()) {
            let len = more.len().min(4096);
            stream.write_all(&more[..len])?;
            sent += len;
            if sent < requests.len() && sent % (1 << 16) != 0 {
                continue;
            }
        }
        let n = stream.read(&mut piece)?;
        ensure!(n > 0, "the connection ended");
        bytes.extend_from_slice(&piece[..n]);
        while let Some((message, after)) = Message::parse(&bytes[taken..])? {
            ensure!(
                message.header.kind != XS_ERROR,
                "refused: {}",
                String::from_utf8_lossy(message.payload)
            );
            seen += 1;
            taken = bytes.len() - after.len();
        }
    }
    Ok(bytes)
}
