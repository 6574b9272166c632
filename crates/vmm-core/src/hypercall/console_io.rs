//! `console_io`: the emergency console.

use cantle_abi::Errno;
use cantle_abi::xen::{CONSOLEIO_read, CONSOLEIO_write};

use super::{Call, Caller, Served};

/// Bytes taken in one call; the guest is told how many by nobody, so more is cut into pieces here.
const PIECE: usize = 256;
/// The most that one call may write.
const MOST: u32 = 64 << 10;

pub(super) fn serve(caller: &Caller<'_>, call: &Call) -> Served {
    let count = call.arg32(1);
    match call.arg32(0) {
        CONSOLEIO_write => write(caller, count, call.arg(2)),
        // There is never anything to read here: input goes to the console ring.
        CONSOLEIO_read => Ok(0),
        _ => Err(Errno::ENOSYS),
    }
}

fn write(caller: &Caller<'_>, count: u32, from: u64) -> Served {
    if count > MOST {
        return Err(Errno::E2BIG);
    }
    let mut at = from;
    let mut left = usize::try_from(count).unwrap_or(0);
    let mut buf = [0; PIECE];
    while left > 0 {
        let piece = buf.get_mut(..left.min(PIECE)).ok_or(Errno::EINVAL)?;
        caller.read_bytes(at, piece)?;
        caller.domain().console_write(piece);
        at = at.checked_add(piece.len() as u64).ok_or(Errno::EFAULT)?;
        left -= piece.len();
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
