//! Copying a disk: one thread reads and looks for zeroes, another one writes.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use cantle_image::{Extent, Format};

use crate::extents::{Extents, What};
use crate::interrupt::Interrupt;
use crate::progress::Progress;

/// So much is read at a time.
pub(crate) const PIECE: usize = 256 << 10;
/// So many pieces are read and not written yet.
const AHEAD: usize = 16;

/// So much is made zeroes at a time, which may mean that they are written.
const MAX_CLEARED: u64 = 64 << 20;

/// What is done where the source has zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zeroes {
    /// Nothing: the target is new, and reads as zeroes.
    AreThere,
    /// They are written, where the target does not know already that there are zeroes.
    Write {
        /// By discards, which leave zeroes in this target.
        discard: bool,
    },
}

/// A copy to be made.
pub(crate) struct Copy<'a> {
    pub(crate) source: &'a dyn Format,
    /// How many of the source's files are of interest: what is in others is left out.
    pub(crate) own_files: Option<usize>,
    /// What the target reads as already, where that is a parent: only what differs is written.
    pub(crate) under: Option<&'a dyn Format>,
    pub(crate) target: &'a dyn Format,
    /// So many bytes of zeroes are not data: a multiple of 512, at most a piece; 0: all are data.
    pub(crate) sparse: usize,
    pub(crate) zeroes: Zeroes,
}

/// What the reader has for the writer.
struct Piece {
    range: Range<u64>,
    /// Empty: all zeroes.
    bytes: Vec<u8>,
    /// Parts of the bytes to be written; the others are zeroes, or there already.
    data: Vec<Range<usize>>,
}

impl Copy<'_> {
    /// Copies, and flushes the target.
    pub(crate) fn run(&self, interrupt: &Interrupt, progress: &mut Progress) -> Result<()> {
        let (pieces, read) = sync_channel(AHEAD);
        let (give_back, buffers) = channel();
        let written = thread::scope(|scope| {
            let reader = scope.spawn(move || self.read_all(&pieces, &buffers));
            let written = self.write_all(read, &give_back, interrupt, progress);
            // Where writing failed, the reader's next piece finds nobody.
            let read = reader
                .join()
                .unwrap_or_else(|_| Err(anyhow!("the reader broke down")));
            written.and(read)
        });
        written?;
        self.target.flush().context("cannot bring it to the medium")
    }

    fn read_all(&self, pieces: &SyncSender<Piece>, buffers: &Receiver<Vec<u8>>) -> Result<()> {
        let mut extents = Extents::new(self.source);
        loop {
            let at = extents.next().context("cannot read the source's tables")?;
            let Some(part) = at else { return Ok(()) };
            let file = match part.what {
                What::Zero(Some(place)) | What::Data(place) => Some(place.file),
                What::Zero(None) | What::Other => None,
            };
            let below = self
                .own_files
                .zip(file)
                .is_some_and(|(own, file)| file >= own);
            let is_zero = matches!(part.what, What::Zero(_)) && self.sparse != 0;
            let mut at = part.range.start;
            while at < part.range.end {
                let skipped = below || (is_zero && self.under.is_none());
                let end = match skipped {
                    true => part.range.end,
                    // Multiples of a piece, so that a unit of a table is not cut.
                    false => (at / PIECE as u64 + 1) * PIECE as u64,
                };
                let range = at..end.min(part.range.end);
                at = range.end;
                let piece = if skipped {
                    let data = Vec::new();
                    let range = if below { range.end..range.end } else { range };
                    Piece {
                        range,
                        bytes: Vec::new(),
                        data,
                    }
                } else {
                    let mut bytes = buffers.try_recv().unwrap_or_default();
                    let len = usize::try_from(range.end - range.start).unwrap_or(PIECE);
                    bytes.resize(len, 0);
                    match part.what {
                        What::Zero(_) => bytes.fill(0),
                        What::Data(place) => {
                            let offset = place.offset + (range.start - part.range.start);
                            let file = extents.files().get(place.file);
                            let file = file.context("cannot read the source's tables")?;
                            file.read_exact_at(&mut bytes, offset)
                                .with_context(|| reading(range.start))?;
                        }
                        What::Other => self
                            .source
                            .read(range.start, &mut bytes)
                            .with_context(|| reading(range.start))?,
                    }
                    self.look(range, bytes)?
                };
                if pieces.send(piece).is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// Finds out what of the bytes is to be written.
    fn look(&self, range: Range<u64>, bytes: Vec<u8>) -> Result<Piece> {
        let data = match self.under {
            Some(under) => {
                let mut there = vec![0; bytes.len()];
                read_or_zeroes(under, range.start, &mut there)
                    .with_context(|| format!("cannot read the parent at byte {}", range.start))?;
                runs(&bytes, self.sparse.max(512), |part, at| {
                    there.get(at..at + part.len()) != Some(part)
                })
            }
            None if self.sparse == 0 => runs(&bytes, PIECE, |_, _| true),
            None => runs(&bytes, self.sparse, |part, _| !is_zero(part)),
        };
        Ok(Piece { range, bytes, data })
    }

    fn write_all(
        &self,
        pieces: Receiver<Piece>,
        buffers: &Sender<Vec<u8>>,
        interrupt: &Interrupt,
        progress: &mut Progress,
    ) -> Result<()> {
        let writing = |at: u64| format!("cannot write at byte {at}");
        for piece in pieces {
            interrupt.check()?;
            let start = piece.range.start;
            let mut zero_from = start;
            for part in &piece.data {
                let (from, to) = (start + part.start as u64, start + part.end as u64);
                self.clear(zero_from..from, interrupt)
                    .with_context(|| writing(zero_from))?;
                let bytes = piece.bytes.get(part.clone()).unwrap_or_default();
                self.target
                    .write(from, bytes)
                    .with_context(|| writing(from))?;
                zero_from = to;
            }
            self.clear(zero_from..piece.range.end, interrupt)
                .with_context(|| writing(zero_from))?;
            progress.at(piece.range.end);
            if !piece.bytes.is_empty() {
                // At the end nobody wants it any more.
                let _ = buffers.send(piece.bytes);
            }
        }
        Ok(interrupt.check()?)
    }

    /// Makes a part of the target zeroes.
    fn clear(&self, range: Range<u64>, interrupt: &Interrupt) -> Result<()> {
        let discard = match self.zeroes {
            Zeroes::Write { discard } if self.under.is_none() => discard,
            _ => return Ok(()),
        };
        let mut at = range.start;
        while at < range.end {
            interrupt.check()?;
            let mapped = self.target.map(at, range.end - at)?;
            let known = mapped.extent == Extent::Zero;
            let most = if known { u64::MAX } else { MAX_CLEARED };
            let len = mapped.len.min(range.end - at).min(most);
            if len == 0 {
                return Err(io::Error::from(ErrorKind::InvalidData).into());
            }
            let cleared = known || discard && self.target.discard(at, len).is_ok();
            if !cleared {
                write_zeroes(self.target, at, len)?;
            }
            at += len;
        }
        Ok(())
    }
}

fn reading(at: u64) -> String {
    format!("cannot read the source at byte {at}")
}

fn write_zeroes(target: &dyn Format, mut at: u64, mut len: u64) -> io::Result<()> {
    let zeroes = vec![0; PIECE];
    while len != 0 {
        let here = len.min(PIECE as u64);
        let part = usize::try_from(here)
            .ok()
            .and_then(|here| zeroes.get(..here));
        target.write(at, part.ok_or(ErrorKind::InvalidInput)?)?;
        at += here;
        len -= here;
    }
    Ok(())
}

/// Reads what a disk has, and zeroes behind its end.
pub(crate) fn read_or_zeroes(disk: &dyn Format, at: u64, into: &mut [u8]) -> io::Result<()> {
    let there = disk.geometry().bytes().saturating_sub(at);
    let there = usize::try_from(there).unwrap_or(usize::MAX).min(into.len());
    let (there, behind) = into.split_at_mut(there);
    behind.fill(0);
    match there {
        [] => Ok(()),
        there => disk.read(at, there),
    }
}

/// The parts of the bytes for which `wanted` is true, in units.
fn runs(bytes: &[u8], unit: usize, wanted: impl Fn(&[u8], usize) -> bool) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    for part in bytes.chunks(unit) {
        let end = at + part.len();
        if wanted(part, at) {
            match runs.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => runs.push(at..end),
            }
        }
        at = end;
    }
    runs
}

/// Whether there is nothing but zeroes: as fast as memory is compared with memory.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (head, tail) = bytes.split_at(bytes.len().min(16));
    // Each byte is the one 16 before it, and the first 16 are zeroes.
    head.iter().all(|byte| *byte == 0) && bytes.get(..tail.len()) == Some(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_seen() {
        for len in [0, 1, 15, 16, 17, 31, 512, 4096, 4097] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in 0..len {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn runs_are_as_long_as_can_be() {
        let bytes = [0, 1, 1, 1, 0, 0, 1, 0, 0];
        let found = runs(&bytes, 2, |part, _| !is_zero(part));
        assert_eq!(found, [0..4, 6..8]);
    }
}
