//! What a kernel that delivers by itself is told of a guest's ports.
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps nothing")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use cantle_abi::ring::HeapPages;
use cantle_abi::xen::{VIRQ_DEBUG, VIRQ_TIMER};
use cantle_abi::{DomId, Port, SharedMemory, VcpuId};
use cantle_evtchn::{
    EventChannels, GuestConfig, GuestDomain, Hub, KernelPorts, RateLimit, Route, SystemDomain,
    Upcall,
};

const V0: VcpuId = VcpuId(0);
const V1: VcpuId = VcpuId(1);
const A: DomId = DomId(1);

/// What a port does there.
#[derive(Debug)]
enum Known {
    Eventfd(File),
    Port(Port, VcpuId),
    Timer(VcpuId),
}

/// A kernel that knows what it is told, and delivers nothing unless it is asked to.
#[derive(Default)]
struct Kernel {
    known: Mutex<BTreeMap<Port, Known>>,
    withdrawn: AtomicBool,
    delivered: Mutex<Vec<(Port, VcpuId)>>,
}

impl KernelPorts for Kernel {
    fn connect(&self, port: Port, route: Route<'_>) {
        if self.withdrawn.load(SeqCst) {
            return;
        }
        let known = match route {
            Route::Eventfd(fd) => Known::Eventfd(fd.try_clone_to_owned().unwrap().into()),
            Route::Port { to, vcpu } => Known::Port(to, vcpu),
            Route::Timer(vcpu) => Known::Timer(vcpu),
        };
        self.known.lock().unwrap().insert(port, known);
    }
    fn disconnect(&self, port: Port) {
        self.known.lock().unwrap().remove(&port);
    }
    fn deliver(&self, port: Port, vcpu: VcpuId) -> bool {
        let takes = !self.withdrawn.load(SeqCst);
        if takes {
            self.delivered.lock().unwrap().push((port, vcpu));
        }
        takes
    }
    fn withdraw(&self) {
        self.withdrawn.store(true, SeqCst);
        self.known.lock().unwrap().clear();
    }
    fn resume(&self) {
        self.withdrawn.store(false, SeqCst);
    }
}

impl Kernel {
    fn ports(&self) -> Vec<Port> {
        self.known.lock().unwrap().keys().copied().collect()
    }

    fn says(&self, port: Port) -> String {
        match self.known.lock().unwrap().get(&port) {
            Some(Known::Eventfd(_)) => "eventfd".into(),
            Some(Known::Port(to, vcpu)) => format!("{to} on {vcpu}"),
            Some(Known::Timer(vcpu)) => format!("timer of {vcpu}"),
            None => "nothing".into(),
        }
    }

    /// As the guest's hypercall there.
    fn send(&self, port: Port) {
        let known = self.known.lock().unwrap();
        let Some(Known::Eventfd(file)) = known.get(&port) else {
            panic!("not an eventfd's");
        };
        (&*file).write_all(&1_u64.to_ne_bytes()).unwrap();
    }
}

impl Upcall for Kernel {
    fn raise(&self, _vcpu: VcpuId) {}
    fn kernel(&self) -> Option<&dyn KernelPorts> {
        Some(self)
    }
}

fn page() -> Arc<dyn SharedMemory + Send + Sync> {
    Arc::new(HeapPages::new(1))
}

fn guest_and_host() -> (Arc<GuestDomain>, Arc<SystemDomain>, Arc<Kernel>, Hub) {
    let hub = Hub::new();
    let kernel = Arc::new(Kernel::default());
    let config = GuestConfig {
        vcpus: 2,
        max_ports: 4096,
    };
    let guest = hub.add_guest(A, config, page(), kernel.clone()).unwrap();
    let host = hub.add_system(DomId(0)).unwrap();
    (guest, host, kernel, hub)
}

#[test]
fn ports_are_known_from_their_binding_to_their_close() {
    let (guest, host, kernel, _hub) = guest_and_host();
    let unbound = guest.alloc_unbound(DomId::SELF, DomId(0)).unwrap();
    assert_eq!(kernel.says(unbound), "nothing");
    let channel = host.bind_interdomain(A, unbound).unwrap();
    let theirs = host.alloc_unbound(A).unwrap();
    let bound = guest.bind_interdomain(DomId(0), theirs.port()).unwrap();
    let ipi = guest.bind_ipi(V1).unwrap();
    let timer = guest.bind_virq(VIRQ_TIMER, V1).unwrap();
    let debug = guest.bind_virq(VIRQ_DEBUG, V1).unwrap();
    let says = [unbound, bound, ipi, timer, debug].map(|port| kernel.says(port));
    let itself = format!("{ipi} on 1");
    assert_eq!(
        says,
        ["eventfd", "eventfd", &itself, "timer of 1", "nothing"]
    );
    drop(channel);
    assert_eq!(kernel.says(unbound), "nothing", "closed at the other end");
    for port in [bound, ipi, timer, debug] {
        guest.close(port).unwrap();
    }
    assert_eq!(kernel.ports(), []);
}

#[test]
fn what_the_kernel_writes_is_a_signal() {
    let (guest, host, kernel, _hub) = guest_and_host();
    let port = guest.alloc_unbound(DomId::SELF, DomId(0)).unwrap();
    let channel = host.bind_interdomain(A, port).unwrap();
    assert!(channel.take(), "a new channel begins signalled");
    assert!(!channel.take());
    for _ in 0..3 {
        kernel.send(port);
        guest.send(port).unwrap();
        kernel.send(port);
        assert!(channel.take() && !channel.take(), "once");
    }
}

#[test]
fn a_loop_within_the_guest_follows_its_vcpus() {
    let (guest, _host, kernel, _hub) = guest_and_host();
    let a = guest.alloc_unbound(DomId::SELF, DomId::SELF).unwrap();
    let b = guest.bind_interdomain(DomId::SELF, a).unwrap();
    assert_eq!(
        [kernel.says(a), kernel.says(b)],
        [format!("{b} on 0"), format!("{a} on 0")]
    );
    guest.bind_vcpu(b, V1).unwrap();
    assert_eq!(
        [kernel.says(a), kernel.says(b)],
        [format!("{b} on 1"), format!("{a} on 0")]
    );
    guest.close(a).unwrap();
    assert_eq!(kernel.ports(), []);
}

#[test]
fn deliveries_are_asked_of_it_unless_they_are_pending() {
    let (guest, _host, kernel, _hub) = guest_and_host();
    let ipi = guest.bind_ipi(V1).unwrap();
    guest.send(ipi).unwrap();
    assert!(!guest.is_pending(ipi), "it said that it did");
    assert_eq!(*kernel.delivered.lock().unwrap(), [(ipi, V1)]);
    kernel.withdraw();
    guest.send(ipi).unwrap();
    assert!(guest.is_pending(ipi) && guest.upcall_pending(V1));
    kernel.resume();
    guest.send(ipi).unwrap();
    assert_eq!(kernel.delivered.lock().unwrap().len(), 1);
}

#[test]
fn fifo_withdraws_it_and_a_reset_brings_it_back() {
    let (guest, host, kernel, _hub) = guest_and_host();
    let given = guest.give_unbound(DomId(0)).unwrap();
    let _channel = host.bind_interdomain(A, given).unwrap();
    guest.init_control(V0, page(), 1).unwrap_err();
    assert_eq!(kernel.ports(), [given], "a refusal changes nothing");
    guest.init_control(V0, page(), 0).unwrap();
    guest.bind_ipi(V0).unwrap();
    assert!(kernel.withdrawn.load(SeqCst) && kernel.ports().is_empty());
    guest.set_rate_limit(None);
    assert!(kernel.withdrawn.load(SeqCst), "still another interface");
    guest.reset(DomId::SELF).unwrap();
    let ipi = guest.bind_ipi(V0).unwrap();
    assert_eq!(kernel.ports(), [ipi]);
    // And from 2-level to 2-level.
    guest.reset(DomId::SELF).unwrap();
    assert_eq!(kernel.ports(), []);
    let ipi = guest.bind_ipi(V1).unwrap();
    assert_eq!(kernel.ports(), [ipi]);
}

#[test]
fn signals_that_are_counted_do_not_go_there() {
    let (guest, _host, kernel, _hub) = guest_and_host();
    let ipi = guest.bind_ipi(V0).unwrap();
    guest.set_rate_limit(Some(RateLimit {
        per_second: 1000,
        burst: 10,
    }));
    let timer = guest.bind_virq(VIRQ_TIMER, V0).unwrap();
    assert!(kernel.ports().is_empty());
    guest.reset(DomId::SELF).unwrap();
    assert!(kernel.withdrawn.load(SeqCst));
    let (ipi, timer) = (
        guest.bind_ipi(V0).unwrap_or(ipi),
        guest.bind_virq(VIRQ_TIMER, V0).unwrap_or(timer),
    );
    guest.set_rate_limit(None);
    assert_eq!(kernel.ports(), [ipi, timer]);
}

#[test]
fn a_guests_end_is_the_kernels() {
    let (guest, host, kernel, _hub) = guest_and_host();
    let port = guest.alloc_unbound(DomId::SELF, DomId(0)).unwrap();
    let channel = host.bind_interdomain(A, port).unwrap();
    drop(guest);
    assert!(kernel.withdrawn.load(SeqCst) && kernel.ports().is_empty());
    drop(channel);
    assert!(kernel.ports().is_empty());
}
