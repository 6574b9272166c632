//! `memory_op`: the host's, but gone on with where it has stopped for the time it took.

use cantle_abi::memory::{
    MEMOP_CMD_MASK, XENMEM_decrease_reservation, XENMEM_increase_reservation,
    XENMEM_populate_physmap, XenMemoryReservation,
};
use cantle_abi::xen::__HYPERVISOR_memory_op;

use super::{Arguments, Outcome, read};
use crate::hardware::Machine;

/// `memory_op(command, argument)`. The host does a part of a long list and says how much; Xen would go on by itself, and Linux counts on that: its balloon
/// ends the kernel where fewer pages were taken than it gave. Each further call does at least one extent more, or is the last.
///
/// # Errors
/// Those of the host.
pub(super) fn memory_op<M: Machine>(machine: &mut M, arguments: Arguments) -> Outcome {
    let [command, argument, a, b, c] = arguments;
    let mut result = machine.forward(__HYPERVISOR_memory_op, arguments);
    let operation = command & u64::from(MEMOP_CMD_MASK);
    let of_list = matches!(
        u32::try_from(operation),
        Ok(XENMEM_decrease_reservation | XENMEM_increase_reservation | XENMEM_populate_physmap)
    );
    if !of_list {
        return Ok(result);
    }
    let Ok(list) = read::<XenMemoryReservation, M>(machine, argument) else {
        return Ok(result);
    };
    let shift = MEMOP_CMD_MASK.count_ones();
    let mut done = command >> shift & u64::from(u32::MAX >> shift);
    // An error is a number near the end of all.
    while done < result && result < list.nr_extents && result < 1 << (32 - shift) {
        done = result;
        result = machine.forward(
            __HYPERVISOR_memory_op,
            [done << shift | operation, argument, a, b, c],
        );
    }
    Ok(result)
}
