//! On a KVM that delivers events: guests of a few instructions, in real mode.

use std::mem::offset_of;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cantle_abi::sched::SCHEDOP_poll;
use cantle_abi::xen::{
    __HYPERVISOR_event_channel_op, __HYPERVISOR_sched_op, SharedInfo, VIRQ_TIMER, VcpuInfo,
};
use cantle_abi::{DomId, PAGE_SIZE, event_channel::EVTCHNOP_send};
use cantle_evtchn::{Channel, RateLimit};
use kvm_bindings::{CpuId, kvm_regs};
use kvm_ioctls::VcpuExit;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::domain::Domain;
use crate::hypercall::HYPERCALL_PORT;
use crate::kvm::vcpu;
use crate::memory::HeapPage;
use crate::outcome::End;
use crate::services::{self, TimerEvents};
use crate::test_utils::Harness;

const SHARED_INFO: Gfn = Gfn(0x810);
const CODE: u64 = 0x1000;
/// An argument, and a list that it names.
const ARG: u32 = 0x6000;
const LIST: u32 = 0x6100;
const V0: VcpuId = VcpuId(0);
/// A hypercall whose number is in eax, arguments in ebx and ecx.
const VMMCALL: [u8; 3] = [0x0f, 0x01, 0xd9];
const KVM_EXIT_XEN: u32 = 34;

/// A guest with a channel to domain 0, its shared info and its first vCPU's info placed.
struct Guest {
    h: Harness,
    channel: Box<dyn Channel>,
    port: Port,
    vcpu: VcpuFd,
}

impl Guest {
    fn new() -> Option<Self> {
        let mut h = Harness::with_kernel_delivery()?;
        vcpu::install_kick_handler().unwrap();
        let channel = h.console_channel().unwrap();
        channel.take();
        let domain = h.domain();
        let vcpu = vcpu::create(domain.vm(), V0).unwrap();
        domain
            .kernel_delivery()
            .unwrap()
            .add_vcpu(V0, &vcpu)
            .unwrap();
        let vcpu = vcpu::set_up(vcpu, &CpuId::new(0).unwrap(), VcpuId(0), None).unwrap();
        let mut sregs = vcpu.get_sregs().unwrap();
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        vcpu.set_sregs(&sregs).unwrap();
        let port = domain.param(cantle_abi::hvm::HVM_PARAM_CONSOLE_EVTCHN);
        let port = Port(u32::try_from(port.unwrap()).unwrap());
        Some(Self {
            h,
            channel,
            port,
            vcpu,
        })
    }

    fn place_shared_info(&self) {
        let domain = self.domain();
        domain
            .ram
            .place(HeapPage::SHARED_INFO, SHARED_INFO)
            .unwrap();
        domain.shared_info_placed(SHARED_INFO);
    }

    fn domain(&self) -> &Arc<Domain> {
        self.h.domain()
    }

    fn delivery(&self) -> &KernelDelivery {
        self.domain().kernel_delivery().unwrap()
    }

    /// A field of shared info.
    fn at(offset: usize) -> u64 {
        SHARED_INFO.addr().unwrap() + offset as u64
    }

    fn selector(&self) -> u64 {
        self.h
            .get(Self::at(offset_of!(VcpuInfo, evtchn_pending_sel)))
    }

    /// What a send by the guest's kernel returns; `None` where it has left KVM.
    fn send(&mut self, port: Port) -> Option<u8> {
        self.h.put(ARG.into(), &port.0);
        self.h.put(CODE, &VMMCALL);
        self.h.put(CODE + 3, &[0xe6_u8, 0xe8]);
        let regs = kvm_regs {
            rip: CODE,
            rflags: 2,
            rax: __HYPERVISOR_event_channel_op.into(),
            rbx: EVTCHNOP_send.into(),
            rcx: ARG.into(),
            ..Default::default()
        };
        self.vcpu.set_regs(&regs).unwrap();
        match self.vcpu.run().unwrap() {
            VcpuExit::IoOut(0xe8, [result]) => Some(*result),
            VcpuExit::Unsupported(KVM_EXIT_XEN) => {
                // Completed, so that the next run begins anew.
                self.vcpu.run().unwrap();
                None
            }
            other => panic!("an exit that there should not be: {other:?}"),
        }
    }
}

fn within(seconds: u64, what: impl Fn() -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(seconds);
    while !what() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    what()
}

#[test]
fn kvm_what_a_guest_sends_stays_in_the_kernel_as_long_as_the_port_is_bound() {
    let Some(mut guest) = Guest::new() else {
        return;
    };
    guest.place_shared_info();
    for _ in 0..2 {
        assert_eq!(guest.send(guest.port), Some(0));
        assert!(guest.channel.take() && !guest.channel.take());
    }
    let domain = guest.domain().clone();
    let ipi = domain.ports.bind_ipi(V0).unwrap();
    assert_eq!(guest.send(ipi), Some(0));
    assert!(domain.ports.is_pending(ipi));
    domain.ports.close(ipi).unwrap();
    assert_eq!(guest.send(ipi), None, "it is not the kernel's any more");
    let other = domain.ports.bind_ipi(V0).unwrap();
    assert_eq!((other, domain.ports.is_pending(other)), (ipi, false));
    assert_eq!(domain.ports.stats().ipis + domain.ports.stats().sends, 0);
    let (a, b) = {
        let a = domain
            .ports
            .alloc_unbound(DomId::SELF, DomId::SELF)
            .unwrap();
        (a, domain.ports.bind_interdomain(DomId::SELF, a).unwrap())
    };
    assert_eq!(guest.send(a), Some(0));
    assert!(domain.ports.is_pending(b) && !domain.ports.is_pending(a));
}

#[test]
fn kvm_deliveries_go_by_the_kernel_once_shared_info_is_placed() {
    let Some(guest) = Guest::new() else { return };
    let domain = guest.domain();
    guest.channel.notify().unwrap();
    assert!(domain.ports.is_pending(guest.port), "by ourselves");
    let upcalls = domain.ports.stats().upcalls;
    guest.place_shared_info();
    let ipi = domain.ports.bind_ipi(V0).unwrap();
    guest
        .h
        .put(Guest::at(offset_of!(VcpuInfo, evtchn_pending_sel)), &0_u64);
    guest.h.put(
        Guest::at(offset_of!(VcpuInfo, evtchn_upcall_pending)),
        &0_u8,
    );
    domain.ports.send(ipi).unwrap();
    assert!(domain.ports.is_pending(ipi) && domain.ports.upcall_pending(V0));
    assert_eq!(guest.selector(), 1 << (ipi.0 / 64));
    assert_eq!(domain.ports.stats().upcalls, upcalls, "none from here");
}

#[test]
fn kvm_timers_go_to_the_kernel_and_come_back() {
    let Some(guest) = Guest::new() else { return };
    guest.place_shared_info();
    let domain = guest.domain();
    let now = || domain.system_time_ns();
    let second = 1_000_000_000;
    // Set before there is a port, and taken along.
    domain
        .set_singleshot(V0, Some(now() + second / 10))
        .unwrap();
    let timer = domain.ports.bind_virq(VIRQ_TIMER, V0).unwrap();
    assert_eq!(domain.timers.take_singleshot(V0), None);
    assert!(
        within(10, || domain.ports.is_pending(timer)),
        "nobody of ours was there"
    );
    // Taken back with its time, when the guest's signals are to be counted.
    domain
        .set_singleshot(V0, Some(now() + 500 * second))
        .unwrap();
    assert_eq!(domain.timers.take_singleshot(V0), None);
    let limit = RateLimit {
        per_second: 1000,
        burst: 10,
    };
    domain.ports.set_rate_limit(Some(limit));
    assert!(!guest.delivery().is_on());
    let left = domain.timers.take_singleshot(V0).unwrap() - now();
    assert!((400 * second..=500 * second).contains(&left));
    domain.ports.set_rate_limit(None);
    assert!(guest.delivery().is_on());
    domain
        .set_singleshot(V0, Some(now() + 500 * second))
        .unwrap();
    domain.set_singleshot(V0, None).unwrap();
    domain.ports.close(timer).unwrap();
    assert_eq!(domain.timers.take_singleshot(V0), None, "it was stopped");
}

#[test]
fn kvm_fifo_is_not_the_kernels() {
    let Some(mut guest) = Guest::new() else {
        return;
    };
    guest.place_shared_info();
    let domain = guest.domain().clone();
    let page = Arc::new(domain.ram.page(Gfn(0x820)).unwrap());
    domain.ports.init_control(V0, page, 0).unwrap();
    assert!(!guest.delivery().is_on());
    assert_eq!(guest.send(guest.port), None);
    domain.ports.reset(DomId::SELF).unwrap();
    assert!(guest.delivery().is_on());
    let ipi = domain.ports.bind_ipi(V0).unwrap();
    assert_eq!(guest.send(ipi), Some(0));
}

/// A vCPU that polls in the kernel keeps it from forgetting a port, until it is nudged.
#[test]
fn kvm_a_poll_that_does_not_end_holds_nobody_up_and_ends_by_its_event() {
    let Some(guest) = Guest::new() else { return };
    guest.place_shared_info();
    let domain = guest.domain().clone();
    let stop = EventFd::new(EFD_NONBLOCK).unwrap();
    let timers = TimerEvents::new(domain.clone());
    let service = services::spawn("timers", vec![Box::new(timers)], &stop).unwrap();
    let [polled, other] = [0, 1].map(|_| domain.ports.bind_ipi(V0).unwrap());
    let mask = Guest::at(offset_of!(SharedInfo, evtchn_mask));
    guest.h.put(mask, &[0xff_u8; 512]);
    guest.h.put(ARG.into(), &[LIST, 1, 0, 0]);
    guest.h.put(LIST.into(), &polled.0);
    // mov $sched_op, %eax; the call; out %eax to the hypercalls' port; again.
    let call = u8::try_from(__HYPERVISOR_sched_op).unwrap();
    guest.h.put(CODE, &[0x66_u8, 0xb8, call, 0, 0, 0]);
    guest.h.put(CODE + 6, &VMMCALL);
    guest
        .h
        .put(CODE + 9, &[0x66_u8, 0xe7, HYPERCALL_PORT, 0xeb, 0xf2]);
    let regs = kvm_regs {
        rip: CODE,
        rflags: 2,
        rbx: SCHEDOP_poll.into(),
        rcx: ARG.into(),
        ..Default::default()
    };
    guest.vcpu.set_regs(&regs).unwrap();
    let Guest { h, vcpu, .. } = guest;
    let thread = std::thread::spawn({
        let domain = domain.clone();
        move || vcpu::run(vcpu, V0, &domain)
    });
    let polls = || {
        let calls = domain.counters().hypercalls();
        calls.get("hypercall_0").copied().unwrap_or(0)
    };
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(polls(), 0, "it waits");
    let closing = std::thread::spawn({
        let domain = domain.clone();
        move || domain.ports.close(other)
    });
    let closed = within(10, || closing.is_finished());
    assert!(
        closed && within(10, || polls() > 0),
        "the poll was ended early"
    );
    let before = loop {
        let seen = polls();
        std::thread::sleep(Duration::from_millis(50));
        if polls() == seen {
            break seen;
        }
    };
    domain.ports.send(polled).unwrap();
    let woken = within(10, || polls() > before);
    domain.end(End::Destroyed);
    thread.join().unwrap();
    stop.write(1).unwrap();
    service.join().unwrap();
    drop(h);
    assert!(woken && domain.ports.is_pending(polled));
    assert_eq!(size_of::<SharedInfo>().div_ceil(PAGE_SIZE), 1);
}
