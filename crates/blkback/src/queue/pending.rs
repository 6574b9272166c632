//! What is remembered of a request while the image has it.

use cantle_abi::io::blkif::BlkifRequest;

use crate::image::{IoOp, SECTOR_SIZE};
use crate::request::{Command, answered_operation};
use crate::stats::{Stats, add};

/// A request that the image has, at the index that is its token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) id: u64,
    pub(super) operation: u8,
    command: Command,
    sectors: u64,
    /// How many steps are done of a command that takes several.
    step: u8,
}

/// What the image does first for a command.
pub(super) fn first_op(command: Command) -> IoOp {
    match command {
        Command::Read => IoOp::Read,
        Command::Write => IoOp::Write,
        Command::Flush | Command::Barrier => IoOp::Flush,
        Command::Discard { sectors, secure } => IoOp::Discard { sectors, secure },
    }
}

impl Pending {
    pub(super) fn new(slot: &BlkifRequest, command: Command, bytes: usize) -> Self {
        Self {
            id: slot.id,
            operation: answered_operation(slot),
            command,
            sectors: bytes as u64 / SECTOR_SIZE,
            step: 0,
        }
    }

    /// What comes after the step that is done; `None` where that was the last.
    pub(super) fn next_op(&mut self) -> Option<IoOp> {
        self.step += 1;
        let carries_data = self.sectors != 0;
        match (self.command, self.step) {
            (Command::Flush | Command::Barrier, 1) if carries_data => Some(IoOp::Write),
            (Command::Barrier, 2) if carries_data => Some(IoOp::Flush),
            _ => None,
        }
    }

    pub(super) fn count(&self, stats: &Stats, done: bool) {
        if !done {
            return add(&stats.failed, 1);
        }
        match self.command {
            Command::Read => {
                add(&stats.reads, 1);
                add(&stats.sectors_read, self.sectors);
            }
            Command::Write => {
                add(&stats.writes, 1);
                add(&stats.sectors_written, self.sectors);
            }
            Command::Flush | Command::Barrier => {
                add(&stats.flushes, 1);
                add(&stats.sectors_written, self.sectors);
            }
            Command::Discard { .. } => add(&stats.discards, 1),
        }
    }
}
