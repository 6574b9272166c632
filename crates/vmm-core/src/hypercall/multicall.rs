//! `multicall`: many calls in one.

use std::time::Instant;

use cantle_abi::Errno;
use cantle_abi::xen::__HYPERVISOR_multicall;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Call, Caller, LONGEST_CALL, Served, dispatch};

/// The most calls in one; more must be asked for in several.
const MOST: u32 = 4096;

/// `struct multicall_entry` (xen.h), 64 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MulticallEntry {
    op: u64,
    result: i64,
    args: [u64; 6],
}

pub(super) fn serve(caller: &Caller<'_>, call: &Call) -> Served {
    let (list, count) = (call.arg(0), call.arg32(1));
    if count > MOST {
        return Err(Errno::E2BIG);
    }
    let until = Instant::now() + LONGEST_CALL;
    for index in 0..u64::from(count) {
        if caller.domain().has_ended() {
            break;
        }
        let at = Caller::element::<MulticallEntry>(list, index)?;
        let mut entry: MulticallEntry = caller.read(at)?;
        let [a, b, c, d, e, _] = entry.args;
        // No call within a call within a call: the work stays bounded.
        entry.result = if entry.op == u64::from(__HYPERVISOR_multicall) {
            Errno::EINVAL.to_ret()
        } else if Instant::now() > until {
            // Not done, and the guest is told so: the calls before it have taken their time.
            Errno::EBUSY.to_ret()
        } else {
            dispatch(
                caller,
                &Call {
                    nr: entry.op,
                    args: [a, b, c, d, e],
                },
            )
        };
        caller.write(at, &entry)?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
