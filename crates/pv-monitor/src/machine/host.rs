//! Calls to the host.
// UNSAFETY: the instruction by which it is called.
#![expect(unsafe_code)]

use core::arch::asm;

use cantle_pv_monitor::interface::HYPERCALL_PORT;

use super::area::Shared;
use super::smp;

/// Calls the host with a number and the values of rdi, rsi, rdx, r10, r8. Others do not wait for this vCPU meanwhile.
pub(super) fn call(shared: &Shared, number: u64, arguments: [u64; 5]) -> u64 {
    smp::inactive(shared, || call_now(number, arguments))
}

/// The same, while there is nobody who might wait.
pub(super) fn call_now(number: u64, arguments: [u64; 5]) -> u64 {
    let [rdi, rsi, rdx, r10, r8] = arguments;
    let mut rax = number;
    // SAFETY: the host reads and writes the guest's memory as the call says; the monitor's own only where a caller gives it an address of it.
    unsafe {
        asm!(
            "out {port}, eax",
            port = const HYPERCALL_PORT,
            inout("rax") rax,
            in("rdi") rdi,
            in("rsi") rsi,
            in("rdx") rdx,
            in("r10") r10,
            in("r8") r8,
            options(nostack),
        );
    }
    rax
}
