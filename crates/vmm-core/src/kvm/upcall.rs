//! Upcalls as messages to a vCPU's local APIC: an ordinary edge interrupt on the vector that the guest chose.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use cantle_abi::VcpuId;
use cantle_evtchn::{KernelPorts, Upcall};
use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_gettime, timerfd_settime,
};

use super::delivery::KernelDelivery;
use crate::sleepers::Sleepers;

/// Message address of local APICs; the destination stands in bits 12 to 19.
const MSI_BASE: u32 = 0xfee0_0000;

/// Raises upcalls by `KVM_SIGNAL_MSI`. A vCPU without a vector gets none: its pending flag waits for it.
///
/// KVM drops a message to a local APIC that the guest has not switched on yet, where Xen would keep it; and since the
/// pending flag stays set, no other would ever follow. So the first message to a vCPU counts as *awaited*
/// until the guest is seen to have taken it, and is repeated meanwhile ([`repeat`](Self::repeat)).
pub(crate) struct MsiUpcall {
    vm: Arc<VmFd>,
    vcpus: Box<[Target]>,
    /// Fires when it is time to look after awaited messages.
    awaiting: OwnedFd,
    failed: AtomicU64,
    sleepers: Sleepers,
    kernel: Option<KernelDelivery>,
}

#[derive(Debug, Default)]
struct Target {
    vector: AtomicU8,
    progress: AtomicU8,
}

/// Nothing was sent on this vector.
const FRESH: u8 = 0;
/// Something was sent, and it is not known whether it arrived.
const AWAITED: u8 = 1;
/// The guest takes its upcalls.
const CONFIRMED: u8 = 2;

/// How long after a message it is looked whether it arrived, in nanoseconds.
const FIRST_LOOK: i64 = 1_000_000;
/// The longest between two looks.
const LAST_LOOK: i64 = 64_000_000;

impl MsiUpcall {
    /// `kernel` delivers what it can; the first upcall of each vCPU comes from here in any case.
    pub(crate) fn new(
        vm: Arc<VmFd>,
        vcpus: u32,
        kernel: Option<KernelDelivery>,
    ) -> io::Result<Self> {
        Ok(Self {
            vm,
            vcpus: (0..vcpus).map(|_| Target::default()).collect(),
            awaiting: timerfd_create(
                TimerfdClockId::Monotonic,
                TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
            )?,
            failed: AtomicU64::new(0),
            sleepers: Sleepers::default(),
            kernel,
        })
    }

    /// KVM's own delivery, where it can.
    pub(crate) fn kernel_delivery(&self) -> Option<&KernelDelivery> {
        self.kernel.as_ref()
    }

    fn target(&self, vcpu: VcpuId) -> Option<&Target> {
        self.vcpus.get(usize::try_from(vcpu.0).ok()?)
    }

    /// Sets a vCPU's vector (`HVMOP_set_evtchn_upcall_vector`); false where there is no such vCPU.
    pub(crate) fn set_vector(&self, vcpu: VcpuId, vector: u8) -> bool {
        let Some(target) = self.target(vcpu) else {
            return false;
        };
        // Relaxed, here and below: plain values; what is pending is ordered by the shared page.
        target.vector.store(vector, Ordering::Relaxed);
        if let Some(kernel) = &self.kernel {
            kernel.vector_set(vcpu, vector);
        }
        // A CPU that was off begins anew.
        target.progress.store(FRESH, Ordering::Relaxed);
        true
    }

    /// Messages that the kernel did not take.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// vCPUs that wait in a hypercall.
    pub(crate) fn sleepers(&self) -> &Sleepers {
        &self.sleepers
    }

    /// Readable when [`repeat`](Self::repeat) is to be called.
    pub(crate) fn awaiting(&self) -> BorrowedFd<'_> {
        self.awaiting.as_fd()
    }

    /// Sends awaited messages again where `pending` says that the guest has not taken them. A repeated message does no harm:
    /// an interrupt that waits already is one interrupt.
    pub(crate) fn repeat(&self, pending: impl Fn(VcpuId) -> bool) {
        let mut left = false;
        for (vcpu, target) in (0..).map(VcpuId).zip(&self.vcpus) {
            if target.progress.load(Ordering::Relaxed) == AWAITED {
                if pending(vcpu) {
                    self.send(vcpu, target);
                    left = true;
                } else {
                    target.progress.store(CONFIRMED, Ordering::Relaxed);
                }
            }
        }
        if left {
            let before =
                timerfd_gettime(&self.awaiting).map_or(FIRST_LOOK, |spec| spec.it_interval.tv_nsec);
            self.look_after(before.saturating_mul(2).clamp(FIRST_LOOK, LAST_LOOK));
        } else {
            self.look_after(0);
            // Awaited since it was looked at above: the timer that was set for it is the one just stopped. Sequentially
            // consistent: `raise` stores before it sets the timer, this loads after it is stopped.
            let awaited = |target: &Target| target.progress.load(Ordering::SeqCst) == AWAITED;
            if self.vcpus.iter().any(awaited) {
                self.look_after(FIRST_LOOK);
            }
        }
    }

    /// Sets when to look; 0 for not at all. The interval remembers the last wait.
    fn look_after(&self, ns: i64) {
        let time = Timespec {
            tv_sec: 0,
            tv_nsec: ns,
        };
        let spec = Itimerspec {
            it_interval: time,
            it_value: time,
        };
        if let Err(error) = timerfd_settime(&self.awaiting, TimerfdTimerFlags::empty(), &spec) {
            tracing::error!(%error, "the timer of awaited upcalls cannot be set");
        }
    }

    fn send(&self, vcpu: VcpuId, target: &Target) {
        let vector = target.vector.load(Ordering::Relaxed);
        if vector == 0 {
            return;
        }
        let msi = kvm_msi {
            address_lo: MSI_BASE | (vcpu.0 << 12),
            data: u32::from(vector),
            ..Default::default()
        };
        if self.vm.signal_msi(msi).is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Upcall for MsiUpcall {
    fn wake_pollers(&self) {
        self.sleepers.wake();
    }

    fn raise(&self, vcpu: VcpuId) {
        self.sleepers.wake();
        let Some(target) = self.target(vcpu) else {
            return;
        };
        if target.progress.load(Ordering::Relaxed) != CONFIRMED {
            target.progress.store(AWAITED, Ordering::SeqCst);
            self.look_after(FIRST_LOOK);
        }
        self.send(vcpu, target);
    }

    fn kernel(&self) -> Option<&dyn KernelPorts> {
        self.kernel
            .as_ref()
            .map(|kernel| kernel as &dyn KernelPorts)
    }
}

impl fmt::Debug for MsiUpcall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MsiUpcall")
            .field("vcpus", &self.vcpus)
            .finish_non_exhaustive()
    }
}
