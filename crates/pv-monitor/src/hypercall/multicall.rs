//! `multicall`: many calls in one.

use cantle_abi::Errno;
use cantle_abi::xen::*;

use super::{Arguments, DONE, Outcome, batch, call, entry_at, read, result, write};
use crate::hardware::Machine;
use crate::vcpu::Vcpu;

/// Where an entry's result is.
const RESULT: u64 = 8;

/// `multicall(list, count)`: makes all of them, each with a result of its own.
///
/// # Errors
/// `EFAULT` where an entry cannot be read or its result not be written: those behind it are not made. `E2BIG`.
pub(super) fn multicall<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    [list, count, ..]: Arguments,
) -> Outcome {
    for index in 0..batch(count)? {
        let at = entry_at(list, index, 64)?;
        let MulticallEntry { op, args, .. } = read(machine, at)?;
        let [a, b, c, d, e, _] = args;
        let outcome = if op == u64::from(__HYPERVISOR_multicall) {
            Err(Errno::EINVAL)
        } else {
            call(machine, vcpu, op, [a, b, c, d, e])
        };
        write(machine, entry_at(at, 1, RESULT)?, &result(outcome))?;
    }
    DONE
}
