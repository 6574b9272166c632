//! How a run ends.

use cantle_abi::sched::{
    SCHEDOP_shutdown, SHUTDOWN_crash, SHUTDOWN_poweroff, SHUTDOWN_reboot, SHUTDOWN_suspend,
    SchedShutdown,
};
use cantle_abi::xen::__HYPERVISOR_sched_op;

use crate::start::Start;
use crate::{clock, console, cpu, hypercall, say};

/// QEMU's debug exit port, for machines without Xen.
const EXIT_PORT: u16 = 0xf4;

/// Ends the run for a reason; comes back where there is no Xen to end it.
fn shutdown(reason: u32) {
    let mut shutdown = SchedShutdown { reason };
    if let Err(why) = hypercall::op(__HYPERVISOR_sched_op, SCHEDOP_shutdown, &mut shutdown) {
        say!("probe: shutdown {reason}: {why}");
    }
}

/// Ends the run as the command line says: `end=poweroff` (or not said), `reboot`, `crash`, `suspend`, `triplefault`, `hang`, `panic`.
pub(crate) fn end(start: &Start, failed: u32) -> ! {
    // The last words are to be read before the machine is gone.
    clock::wait(2_000, || matches!(console::unread(), Ok(0) | Err(_)));
    match start.option("end") {
        Some("reboot") => shutdown(SHUTDOWN_reboot),
        Some("crash") => shutdown(SHUTDOWN_crash),
        Some("suspend") => shutdown(SHUTDOWN_suspend),
        Some("triplefault") => {
            cpu::disable_interrupts();
            cpu::triple_fault()
        }
        Some("hang") => cpu::stop(),
        Some("panic") => panic!("as the command line asks"),
        _ => shutdown(SHUTDOWN_poweroff),
    }
    cpu::out8(EXIT_PORT, u8::from(failed != 0));
    cpu::stop()
}

/// Ends the run as crashed.
pub(crate) fn crash() -> ! {
    shutdown(SHUTDOWN_crash);
    cpu::out8(EXIT_PORT, 2);
    cpu::stop()
}
