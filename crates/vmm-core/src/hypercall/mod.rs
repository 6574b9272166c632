//! Hypercalls: what arrives, whatever the transport, and who serves it.
//!
//! A call is a number and up to five arguments in 64-bit registers; pointers are guest-virtual and are translated by the
//! caller's own page tables. Arguments are copied out of guest memory once, and the copy is checked and used. A call that is
//! not known returns `-ENOSYS` and is counted. Each call's work is bounded by its arguments' checked counts, and long ones look
//! whether the domain has ended meanwhile.

#![expect(
    non_upper_case_globals,
    reason = "operations are matched by the names of Xen's headers"
)]

mod caller;
mod console_io;
mod event_channel_op;
mod grant_table_op;
mod hvm_op;
mod memory_op;
mod monitor;
mod multicall;
pub(crate) mod page;
mod paging;
mod sched_op;
mod vcpu_op;
mod xen_version;

use std::time::Duration;

use cantle_abi::Errno;
use cantle_abi::xen;

pub(crate) use caller::Caller;
pub(crate) use paging::Paging;
pub(crate) use xen_version::XEN_VERSION;

/// The I/O port that hypercalls arrive by where the kernel does not intercept them. It fits the two-byte `out`, and no PC
/// hardware that a PVH guest looks for is there.
pub(crate) const HYPERCALL_PORT: u8 = 0xe8;

/// How long the calls go on that may do a part of their work and say so. Xen preempts those at about that age and continues
/// them later; here the guest makes another call.
const LONGEST_CALL: Duration = Duration::from_millis(200);

/// A hypercall as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// Its number.
    pub(crate) nr: u64,
    /// Its arguments: rdi, rsi, rdx, r10, r8.
    pub(crate) args: [u64; 5],
}

impl Call {
    /// An argument that the interface says is 32 bits wide: the upper half of the register has no meaning.
    fn arg32(&self, n: usize) -> u32 {
        let value = self.args.get(n).copied().unwrap_or(0);
        u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0)
    }

    fn arg(&self, n: usize) -> u64 {
        self.args.get(n).copied().unwrap_or(0)
    }
}

/// What a served call returns: a value, or an error that becomes its negative number.
type Served = Result<i64, Errno>;

/// Serves a call and returns what goes into rax.
pub(crate) fn dispatch(caller: &Caller<'_>, call: &Call) -> i64 {
    if let Some(served) = monitor::serve(caller, call) {
        return served.unwrap_or_else(Errno::to_ret);
    }
    let served = serve(caller, call);
    let known = !matches!(served, Err(Errno::ENOSYS));
    caller.domain().counters().hypercall(call.nr, known);
    match served {
        Ok(value) => value,
        Err(errno) => {
            tracing::trace!(vcpu = %caller.vcpu(), nr = call.nr, args = ?call.args, %errno, "hypercall failed");
            errno.to_ret()
        }
    }
}

fn serve(caller: &Caller<'_>, call: &Call) -> Served {
    if !caller.is_kernel() {
        return Err(Errno::EPERM);
    }
    let Ok(nr) = u32::try_from(call.nr) else {
        return Err(Errno::ENOSYS);
    };
    match nr {
        xen::__HYPERVISOR_event_channel_op => event_channel_op::serve(caller, call),
        xen::__HYPERVISOR_vcpu_op => vcpu_op::serve(caller, call),
        xen::__HYPERVISOR_set_timer_op => vcpu_op::set_timer_op(caller, call),
        xen::__HYPERVISOR_sched_op => sched_op::serve(caller, call),
        xen::__HYPERVISOR_grant_table_op => grant_table_op::serve(caller, call),
        xen::__HYPERVISOR_memory_op => memory_op::serve(caller, call),
        xen::__HYPERVISOR_hvm_op if caller.domain().pv.is_none() => hvm_op::serve(caller, call),
        xen::__HYPERVISOR_xen_version => xen_version::serve(caller, call),
        xen::__HYPERVISOR_console_io => console_io::serve(caller, call),
        xen::__HYPERVISOR_vm_assist => vcpu_op::vm_assist(caller, call),
        xen::__HYPERVISOR_multicall => multicall::serve(caller, call),
        _ => Err(Errno::ENOSYS),
    }
}

#[cfg(test)]
mod tests;
