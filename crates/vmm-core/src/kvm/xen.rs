//! The kernel's Xen support (`KVM_CAP_XEN_HVM`): its requests, one function each. Documentation/virt/kvm/api.rst describes them.

// UNSAFETY: ioctls that kvm-ioctls does not wrap, a union that one of them fills, and a vCPU's descriptor that is lent by number.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use cantle_abi::event_channel::{EVTCHNSTAT_interdomain, EVTCHNSTAT_ipi};
use cantle_abi::{Gfn, Port, VcpuId};
use kvm_bindings::{
    KVM_CAP_XEN_HVM, KVM_XEN_ATTR_TYPE_EVTCHN, KVM_XEN_ATTR_TYPE_LONG_MODE,
    KVM_XEN_ATTR_TYPE_SHARED_INFO, KVM_XEN_EVTCHN_DEASSIGN, KVM_XEN_EVTCHN_RESET,
    KVM_XEN_EVTCHN_UPDATE, KVM_XEN_HVM_CONFIG_EVTCHN_2LEVEL, KVM_XEN_HVM_CONFIG_EVTCHN_SEND,
    KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL, KVM_XEN_HVM_CONFIG_SHARED_INFO,
    KVM_XEN_VCPU_ATTR_TYPE_TIMER, KVM_XEN_VCPU_ATTR_TYPE_UPCALL_VECTOR,
    KVM_XEN_VCPU_ATTR_TYPE_VCPU_ID, KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO, KVMIO,
    kvm_irq_routing_xen_evtchn, kvm_xen_hvm_attr, kvm_xen_hvm_attr__bindgen_ty_1,
    kvm_xen_hvm_attr__bindgen_ty_1__bindgen_ty_1, kvm_xen_hvm_attr__bindgen_ty_1__bindgen_ty_2,
    kvm_xen_hvm_attr__bindgen_ty_1__bindgen_ty_2__bindgen_ty_1 as Deliver,
    kvm_xen_hvm_attr__bindgen_ty_1__bindgen_ty_2__bindgen_ty_1__bindgen_ty_1 as DeliverPort,
    kvm_xen_hvm_attr__bindgen_ty_1__bindgen_ty_2__bindgen_ty_1__bindgen_ty_2 as DeliverEventfd,
    kvm_xen_hvm_config, kvm_xen_vcpu_attr, kvm_xen_vcpu_attr__bindgen_ty_1,
    kvm_xen_vcpu_attr__bindgen_ty_1__bindgen_ty_2,
};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_iow_nr, ioctl_iowr_nr};

use super::vm::HYPERCALL_MSR;

ioctl_iow_nr!(KVM_XEN_HVM_CONFIG, KVMIO, 0x7a, kvm_xen_hvm_config);
ioctl_iow_nr!(KVM_XEN_HVM_SET_ATTR, KVMIO, 0xc9, kvm_xen_hvm_attr);
ioctl_iowr_nr!(KVM_XEN_VCPU_GET_ATTR, KVMIO, 0xca, kvm_xen_vcpu_attr);
ioctl_iow_nr!(KVM_XEN_VCPU_SET_ATTR, KVMIO, 0xcb, kvm_xen_vcpu_attr);
ioctl_iow_nr!(
    KVM_XEN_HVM_EVTCHN_SEND,
    KVMIO,
    0xd0,
    kvm_irq_routing_xen_evtchn
);

/// The priority of all 2-level channels (`KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL`).
const PRIORITY_2LEVEL: u32 = u32::MAX;

/// What a signal of the guest's does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    Eventfd(BorrowedFd<'a>),
    Port { to: Port, vcpu: VcpuId },
}

fn flags(vm: &VmFd) -> u32 {
    u32::try_from(vm.check_extension_raw(KVM_CAP_XEN_HVM.into())).unwrap_or(0)
}

/// Whether this KVM intercepts Xen hypercalls itself.
pub(crate) fn intercepts(vm: &VmFd) -> bool {
    flags(vm) & KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL != 0
}

/// Whether it also delivers events of the 2-level interface (Linux 5.18).
pub(crate) fn delivers(vm: &VmFd) -> bool {
    const ALL: u32 = KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL
        | KVM_XEN_HVM_CONFIG_SHARED_INFO
        | KVM_XEN_HVM_CONFIG_EVTCHN_2LEVEL
        | KVM_XEN_HVM_CONFIG_EVTCHN_SEND;
    flags(vm) & ALL == ALL
}

/// Has the kernel intercept hypercalls and fill the hypercall page; and, where `polls`, serve `SCHEDOP_poll`.
pub(crate) fn configure(vm: &VmFd, polls: bool) -> io::Result<()> {
    let polls = if polls {
        KVM_XEN_HVM_CONFIG_EVTCHN_SEND
    } else {
        0
    };
    let config = kvm_xen_hvm_config {
        flags: KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL | polls,
        msr: HYPERCALL_MSR,
        ..Default::default()
    };
    // SAFETY: the request takes a pointer to this structure, which lives across the call.
    check(unsafe { ioctl_with_ref(&vm.as_raw_fd(), KVM_XEN_HVM_CONFIG(), &config) })
}

/// The guest's structures are those of long mode.
pub(crate) fn set_long_mode(vm: &VmFd) -> io::Result<()> {
    set(
        vm,
        KVM_XEN_ATTR_TYPE_LONG_MODE,
        kvm_xen_hvm_attr__bindgen_ty_1 { long_mode: 1 },
    )
}

/// Where shared info is.
pub(crate) fn set_shared_info(vm: &VmFd, gfn: Gfn) -> io::Result<()> {
    let shared_info = kvm_xen_hvm_attr__bindgen_ty_1__bindgen_ty_1 { gfn: gfn.0 };
    set(
        vm,
        KVM_XEN_ATTR_TYPE_SHARED_INFO,
        kvm_xen_hvm_attr__bindgen_ty_1 { shared_info },
    )
}

/// Has the kernel take the signals that the guest sends on a port.
pub(crate) fn assign(vm: &VmFd, port: Port, target: Target<'_>) -> io::Result<()> {
    set_port(vm, port, 0, Some(target))
}

/// An assigned port's target is delivered to another vCPU now.
pub(crate) fn update(vm: &VmFd, port: Port, target: Target<'_>) -> io::Result<()> {
    set_port(vm, port, KVM_XEN_EVTCHN_UPDATE, Some(target))
}

/// The kernel lets a port's signals pass again. Waits for those it is at.
pub(crate) fn deassign(vm: &VmFd, port: Port) -> io::Result<()> {
    set_port(vm, port, KVM_XEN_EVTCHN_DEASSIGN, None)
}

/// As [`deassign`] for all ports at once.
pub(crate) fn deassign_all(vm: &VmFd) -> io::Result<()> {
    set_port(vm, Port(0), KVM_XEN_EVTCHN_RESET, None)
}

fn set_port(vm: &VmFd, port: Port, flags: u32, target: Option<Target<'_>>) -> io::Result<()> {
    let (kind, deliver) = match target {
        None => (0, Deliver { padding: [0; 4] }),
        Some(Target::Eventfd(fd)) => {
            let eventfd = DeliverEventfd {
                port: 0,
                fd: fd.as_raw_fd(),
            };
            (EVTCHNSTAT_interdomain, Deliver { eventfd })
        }
        Some(Target::Port { to, vcpu }) => {
            let kind = if to == port {
                EVTCHNSTAT_ipi
            } else {
                EVTCHNSTAT_interdomain
            };
            let port = DeliverPort {
                port: to.0,
                vcpu: vcpu.0,
                priority: PRIORITY_2LEVEL,
            };
            (kind, Deliver { port })
        }
    };
    let evtchn = kvm_xen_hvm_attr__bindgen_ty_1__bindgen_ty_2 {
        send_port: port.0,
        type_: kind,
        flags,
        deliver,
    };
    set(
        vm,
        KVM_XEN_ATTR_TYPE_EVTCHN,
        kvm_xen_hvm_attr__bindgen_ty_1 { evtchn },
    )
}

/// Makes a port pending and tells its vCPU.
pub(crate) fn send(vm: &VmFd, port: Port, vcpu: VcpuId) -> io::Result<()> {
    let event = kvm_irq_routing_xen_evtchn {
        port: port.0,
        vcpu: vcpu.0,
        priority: PRIORITY_2LEVEL,
    };
    // SAFETY: the request takes a pointer to this structure, which lives across the call.
    check(unsafe { ioctl_with_ref(&vm.as_raw_fd(), KVM_XEN_HVM_EVTCHN_SEND(), &event) })
}

/// Another descriptor of a vCPU, for [the requests](set_vcpu_id) that concern it. They wait while the vCPU runs.
pub(crate) fn duplicate(vcpu: &VcpuFd) -> io::Result<OwnedFd> {
    // SAFETY: open as long as `vcpu`, which is longer than this call.
    unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) }.try_clone_to_owned()
}

/// The vCPU's number in the guest's eyes.
pub(crate) fn set_vcpu_id(vcpu: BorrowedFd<'_>, id: VcpuId) -> io::Result<()> {
    set_vcpu(
        vcpu,
        KVM_XEN_VCPU_ATTR_TYPE_VCPU_ID,
        kvm_xen_vcpu_attr__bindgen_ty_1 { vcpu_id: id.0 },
    )
}

/// Where the vCPU's info is. The kernel keeps the clock there, too.
pub(crate) fn set_vcpu_info(vcpu: BorrowedFd<'_>, gpa: u64) -> io::Result<()> {
    set_vcpu(
        vcpu,
        KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO,
        kvm_xen_vcpu_attr__bindgen_ty_1 { gpa },
    )
}

/// The vector that its upcalls come by.
pub(crate) fn set_vector(vcpu: BorrowedFd<'_>, vector: u8) -> io::Result<()> {
    set_vcpu(
        vcpu,
        KVM_XEN_VCPU_ATTR_TYPE_UPCALL_VECTOR,
        kvm_xen_vcpu_attr__bindgen_ty_1 { vector },
    )
}

/// The port that the vCPU's one-shot timer makes pending, and the system time that it is set to (0: it is not). Without a port
/// the kernel lets the hypercalls that set it pass.
pub(crate) fn set_timer(
    vcpu: BorrowedFd<'_>,
    port: Option<Port>,
    expires_ns: u64,
) -> io::Result<()> {
    let timer = kvm_xen_vcpu_attr__bindgen_ty_1__bindgen_ty_2 {
        port: port.map_or(0, |port| port.0),
        priority: PRIORITY_2LEVEL,
        expires_ns,
    };
    set_vcpu(
        vcpu,
        KVM_XEN_VCPU_ATTR_TYPE_TIMER,
        kvm_xen_vcpu_attr__bindgen_ty_1 { timer },
    )
}

/// The system time that the vCPU's timer is set to; 0 where it is not.
pub(crate) fn timer(vcpu: BorrowedFd<'_>) -> io::Result<u64> {
    let mut attr = kvm_xen_vcpu_attr {
        type_: kind(KVM_XEN_VCPU_ATTR_TYPE_TIMER),
        pad: [0; 3],
        u: kvm_xen_vcpu_attr__bindgen_ty_1 { pad: [0; 8] },
    };
    let fd: RawFd = vcpu.as_raw_fd();
    // SAFETY: the request takes a pointer to this structure, which lives across the call.
    check(unsafe { ioctl_with_mut_ref(&fd, KVM_XEN_VCPU_GET_ATTR(), &mut attr) })?;
    // SAFETY: all members are plain numbers, and the kernel has filled this one, which was zeros before.
    Ok(unsafe { attr.u.timer }.expires_ns)
}

fn set(vm: &VmFd, what: u32, u: kvm_xen_hvm_attr__bindgen_ty_1) -> io::Result<()> {
    let attr = kvm_xen_hvm_attr {
        type_: kind(what),
        pad: [0; 3],
        u,
    };
    // SAFETY: the request takes a pointer to this structure, which lives across the call.
    check(unsafe { ioctl_with_ref(&vm.as_raw_fd(), KVM_XEN_HVM_SET_ATTR(), &attr) })
}

fn set_vcpu(vcpu: BorrowedFd<'_>, what: u32, u: kvm_xen_vcpu_attr__bindgen_ty_1) -> io::Result<()> {
    let attr = kvm_xen_vcpu_attr {
        type_: kind(what),
        pad: [0; 3],
        u,
    };
    let fd: RawFd = vcpu.as_raw_fd();
    // SAFETY: the request takes a pointer to this structure, which lives across the call.
    check(unsafe { ioctl_with_ref(&fd, KVM_XEN_VCPU_SET_ATTR(), &attr) })
}

#[expect(clippy::cast_possible_truncation, reason = "they are below 10")]
const fn kind(what: u32) -> u16 {
    what as u16
}

fn check(ret: libc::c_int) -> io::Result<()> {
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
