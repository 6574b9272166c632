//! Event channel operations (`event_channel.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{DomId, Port, VcpuId};

/// Connect to a port that a remote domain left unbound for us.
pub const EVTCHNOP_bind_interdomain: u32 = 0;
/// Bind a virtual interrupt.
pub const EVTCHNOP_bind_virq: u32 = 1;
/// Bind a physical interrupt.
pub const EVTCHNOP_bind_pirq: u32 = 2;
/// Close a port.
pub const EVTCHNOP_close: u32 = 3;
/// Signal the other end.
pub const EVTCHNOP_send: u32 = 4;
/// Ask about a port.
pub const EVTCHNOP_status: u32 = 5;
/// Make a port that a named domain may bind to.
pub const EVTCHNOP_alloc_unbound: u32 = 6;
/// Make a port by which vCPUs of the domain signal each other.
pub const EVTCHNOP_bind_ipi: u32 = 7;
/// Choose the vCPU that a port is delivered to.
pub const EVTCHNOP_bind_vcpu: u32 = 8;
/// Unmask a port, delivering what is pending.
pub const EVTCHNOP_unmask: u32 = 9;
/// Close all ports.
pub const EVTCHNOP_reset: u32 = 10;
/// Switch to the FIFO interface: a vCPU's control block.
pub const EVTCHNOP_init_control: u32 = 11;
/// FIFO: another page of event words.
pub const EVTCHNOP_expand_array: u32 = 12;
/// FIFO: a port's priority.
pub const EVTCHNOP_set_priority: u32 = 13;
/// How Xen goes on with a reset that it broke off: its own, not for guests (the header has it under `__XEN__`).
pub const EVTCHNOP_reset_cont: u32 = 14;

/// `bind_pirq`: other devices may use the interrupt's line too.
pub const BIND_PIRQ__WILL_SHARE: u32 = 1;

/// Not in use.
pub const EVTCHNSTAT_closed: u32 = 0;
/// Waiting for the remote domain.
pub const EVTCHNSTAT_unbound: u32 = 1;
/// Connected to another domain's port.
pub const EVTCHNSTAT_interdomain: u32 = 2;
/// Bound to a physical interrupt.
pub const EVTCHNSTAT_pirq: u32 = 3;
/// Bound to a virtual interrupt.
pub const EVTCHNSTAT_virq: u32 = 4;
/// Bound for signals between vCPUs.
pub const EVTCHNSTAT_ipi: u32 = 5;

/// Ports of a 64-bit domain in the 2-level interface: 64 words of 64 bits.
pub const EVTCHN_2L_NR_CHANNELS: u32 = 64 * 64;

/// FIFO: the highest priority.
pub const EVTCHN_FIFO_PRIORITY_MAX: u32 = 0;
/// FIFO: the priority that ports begin with.
pub const EVTCHN_FIFO_PRIORITY_DEFAULT: u32 = 7;
/// FIFO: the lowest priority.
pub const EVTCHN_FIFO_PRIORITY_MIN: u32 = 15;
/// FIFO: queues of a vCPU, one for each priority.
pub const EVTCHN_FIFO_MAX_QUEUES: usize = 16;
/// FIFO, the number of a bit in an event word: the event is pending.
pub const EVTCHN_FIFO_PENDING: u32 = 31;
/// FIFO, the number of a bit in an event word: the guest does not want to hear of it.
pub const EVTCHN_FIFO_MASKED: u32 = 30;
/// FIFO, the number of a bit in an event word: it is on a queue.
pub const EVTCHN_FIFO_LINKED: u32 = 29;
/// FIFO, the number of a bit in an event word: the host changes the link, and the guest waits with unmasking.
pub const EVTCHN_FIFO_BUSY: u32 = 28;
/// FIFO: bits of an event word that name the next port on the queue.
pub const EVTCHN_FIFO_LINK_BITS: u32 = 17;
/// FIFO: those bits.
pub const EVTCHN_FIFO_LINK_MASK: u32 = (1 << EVTCHN_FIFO_LINK_BITS) - 1;
/// FIFO: ports of a domain, the invalid port 0 included.
pub const EVTCHN_FIFO_NR_CHANNELS: u32 = 1 << EVTCHN_FIFO_LINK_BITS;

/// `struct evtchn_alloc_unbound`, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnAllocUnbound {
    /// In: whose port (usually `DOMID_SELF`).
    pub dom: DomId,
    /// In: who may bind to it.
    pub remote_dom: DomId,
    /// Out: the port.
    pub port: Port,
}

/// `struct evtchn_bind_interdomain`, 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnBindInterdomain {
    /// In: the domain that made the port.
    pub remote_dom: DomId,
    /// Padding.
    pub pad: u16,
    /// In: its port.
    pub remote_port: Port,
    /// Out: our port.
    pub local_port: Port,
}

/// `struct evtchn_bind_virq`, 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnBindVirq {
    /// In: `VIRQ_*`.
    pub virq: u32,
    /// In: the vCPU.
    pub vcpu: VcpuId,
    /// Out: the port.
    pub port: Port,
}

/// `struct evtchn_bind_pirq`, 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnBindPirq {
    /// In: the interrupt.
    pub pirq: u32,
    /// In: `BIND_PIRQ__*`.
    pub flags: u32,
    /// Out: the port.
    pub port: Port,
}

/// `struct evtchn_bind_ipi`, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnBindIpi {
    /// In: the vCPU to deliver to.
    pub vcpu: VcpuId,
    /// Out: the port.
    pub port: Port,
}

/// `struct evtchn_close`, `evtchn_send` and `evtchn_unmask`, 4 bytes: just a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnPort {
    /// In: the port.
    pub port: Port,
}

/// `struct evtchn_status`, 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnStatus {
    /// In: whose port.
    pub dom: DomId,
    /// Padding.
    pub pad: u16,
    /// In: the port.
    pub port: Port,
    /// Out: `EVTCHNSTAT_*`.
    pub status: u32,
    /// Out: the vCPU it is delivered to.
    pub vcpu: VcpuId,
    /// Out: the union's first word: unbound and interdomain: the remote domain (low 16 bits); pirq, virq: its number.
    pub u0: u32,
    /// Out: the union's second word: interdomain: the remote port.
    pub u1: u32,
}

/// `struct evtchn_bind_vcpu`, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnBindVcpu {
    /// In: the port.
    pub port: Port,
    /// In: the vCPU to deliver to.
    pub vcpu: VcpuId,
}

/// `struct evtchn_reset`, 2 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnReset {
    /// In: whose ports.
    pub dom: DomId,
}

/// `struct evtchn_init_control`, 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnInitControl {
    /// In: the frame with the control block.
    pub control_gfn: u64,
    /// In: where in it, in bytes.
    pub offset: u32,
    /// In: the vCPU.
    pub vcpu: VcpuId,
    /// Out: bits of a link.
    pub link_bits: u8,
    /// Padding.
    pub pad: [u8; 7],
}

/// `struct evtchn_expand_array`, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnExpandArray {
    /// In: the frame with the next 1024 event words.
    pub array_gfn: u64,
}

/// `struct evtchn_set_priority`, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnSetPriority {
    /// In: the port.
    pub port: Port,
    /// In: `EVTCHN_FIFO_PRIORITY_MAX` to `EVTCHN_FIFO_PRIORITY_MIN`.
    pub priority: u32,
}

/// `struct evtchn_fifo_control_block`, 72 bytes: a vCPU's queues, in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnFifoControlBlock {
    /// A bit for each priority whose queue has become non-empty.
    pub ready: u32,
    /// Reserved.
    pub rsvd: u32,
    /// Each queue's first port.
    pub head: [u32; EVTCHN_FIFO_MAX_QUEUES],
}
