//! A machine: one guest with its host around it, from its configuration to its end.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cantle_abi::grant_table::{GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE};
use cantle_abi::{DomId, VcpuId};
use cantle_evtchn::{Abi, GuestConfig as PortConfig, Hub, RateLimit};
use cantle_grant::{InProcessMapper, Tables};
use cantle_xenstore::Shared;
use cantle_xenstore::server::Server;
use cantle_xenstore::xenbus::toolstack;
use kvm_bindings::kvm_cpuid_entry2;
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::boot::{self, BootConfig, KernelImage, layout};
use crate::config::{Console, GuestConfig, GuestKind, TransportChoice};
use crate::console::ConsoleOutput;
use crate::devices::{self, Device, Platform};
use crate::disks::Disks;
use crate::domain::{Domain, Parts};
use crate::error::{NetError, SetupError};
use crate::grants;
use crate::hypercall::HYPERCALL_PORT;
use crate::kvm::delivery::KernelDelivery;
use crate::kvm::grace::Grace;
use crate::kvm::upcall::MsiUpcall;
use crate::kvm::vcpu::{Start, VcpuHandle};
use crate::kvm::{cpuid, vcpu, vm, xen};
use crate::memory::{GuestRam, Places};
use crate::nets::{NetConfig, NetWatch, Nets, ReadNet};
use crate::outcome::{End, Outcome, Stats};
use crate::pv::{PvDomain, PvSetup};
use crate::rings::Rings;
use crate::running::Running;
use crate::services::{self, Service, Subscriber, TimerEvents};
use crate::store::StoreSocket;
use crate::timers::Timers;

/// The guest's number; a machine has one guest.
const GUEST: DomId = DomId(1);

/// How hypercalls arrive, decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Xen,
    Page,
    Rewrite,
    /// By the monitor of a PV guest.
    Monitor,
}

impl Transport {
    const fn name(self) -> &'static str {
        match self {
            Self::Xen => "xen",
            Self::Page => "page",
            Self::Rewrite => "rewrite",
            Self::Monitor => "monitor",
        }
    }
}

/// A guest that is set up and has not run yet.
pub struct Machine {
    domain: Arc<Domain>,
    vcpus: Vec<VcpuFd>,
    services: Vec<Service>,
    devices: Vec<Device>,
    nets: Arc<Nets>,
    stop: EventFd,
    store: Shared,
    transport: Transport,
    began: Instant,
}

/// Reaches a machine from other threads.
#[derive(Clone, Debug)]
pub struct MachineControl {
    domain: Arc<Domain>,
    nets: Arc<Nets>,
}

impl MachineControl {
    /// Ends the guest at once, as pulling the plug does; [`Machine::run`] returns soon after.
    pub fn destroy(&self) {
        self.domain.end(End::Destroyed);
    }

    /// Gives the guest one more network interface, which its driver finds by itself; the interface's number.
    ///
    /// # Errors
    ///
    /// [`SetupError`]: it cannot be had, there are too many, or the guest has ended.
    pub fn attach_net(&self, config: &NetConfig) -> Result<u32, SetupError> {
        self.nets.attach(config)
    }

    /// Takes a network interface away: its driver is asked to let go of it, and has ten seconds for that. It is gone, and its number free,
    /// some time after this returns.
    ///
    /// # Errors
    ///
    /// [`NetError`]: there is none of this number, or the guest has ended.
    pub fn detach_net(&self, index: u32) -> Result<(), NetError> {
        self.nets.detach(index)
    }

    /// Sets or lifts the limit on the guest's signals ([`GuestConfig::max_event_rate`]), against a storm that goes on, say.
    pub fn set_max_event_rate(&self, per_second: Option<NonZeroU32>) {
        self.domain.ports.set_rate_limit(per_second.map(rate_limit));
    }
}

/// A tenth of a second's signals may come at once.
fn rate_limit(per_second: NonZeroU32) -> RateLimit {
    RateLimit {
        per_second: per_second.get(),
        burst: per_second.get() / 10,
    }
}

impl Machine {
    /// Sets everything up: memory, kernel, platform, store, devices. Nothing of the guest runs yet.
    ///
    /// # Errors
    ///
    /// [`SetupError`]; nothing is left behind then.
    pub fn new(config: GuestConfig, console: Console) -> Result<Self, SetupError> {
        let began = Instant::now();
        config.check()?;
        let kvm = vm::open()?;
        vcpu::install_kick_handler()?;
        let mut kernel = KernelImage::read(&config.kernel).map_err(boot::BootError::from)?;
        let vm = Arc::new(vm::create(&kvm)?);
        let transport = match config.kind {
            GuestKind::Pvh => choose_transport(&vm, &mut kernel, config.transport)?,
            GuestKind::Pv => monitors_transport(config.transport)?,
        };
        let pv = match config.kind {
            GuestKind::Pvh => None,
            GuestKind::Pv => Some(PvSetup::plan(&kernel, &config)?),
        };
        let grace = Arc::new(Grace::new().map_err(SetupError::host("timers"))?);
        let places = pv
            .as_ref()
            .map_or_else(|| Places::pvh(config.memory), |pv| Places::pv(*pv.frames()));
        let ram = grants::memory(vm.clone(), places, &config.grants, grace.clone())?;

        let hub = Hub::new();
        let dom0 = hub
            .add_system(DomId::DOM0)
            .map_err(SetupError::host("event channels"))?;
        let timers =
            Arc::new(Timers::new(vm.clone(), config.vcpus).map_err(SetupError::host("timers"))?);
        let handles: Arc<[VcpuHandle]> = (0..config.vcpus).map(|_| VcpuHandle::default()).collect();
        let delivery = match transport {
            Transport::Xen => {
                KernelDelivery::new(vm.clone(), handles.clone(), timers.clone(), grace.clone())
                    .map_err(|source| SetupError::Kvm {
                        what: "delivery of events",
                        source,
                    })?
            }
            _ => None,
        };
        let upcall = MsiUpcall::new(vm.clone(), config.vcpus, delivery);
        let upcall = Arc::new(upcall.map_err(SetupError::host("timers"))?);
        let ports = hub
            .add_guest(
                GUEST,
                PortConfig {
                    vcpus: config.vcpus,
                    // Port 0 is none.
                    max_ports: config.max_event_channels + 1,
                },
                Arc::new(ram.shared_info()),
                upcall.clone(),
            )
            .map_err(SetupError::host("event channels"))?;
        ports.set_rate_limit(config.max_event_rate.map(rate_limit));
        let tables = Arc::new(Tables::new());
        let grants = grants::create(GUEST, &config.grants, &ram, config.kind)?;
        tables
            .insert(grants.clone())
            .map_err(SetupError::host("the grant table"))?;
        let ring_frames = pv
            .as_ref()
            .map_or([layout::STORE_GFN, layout::CONSOLE_GFN], PvSetup::rings);
        // Where a toolstack's own tools would look for the rings.
        for (gref, gfn) in [GNTTAB_RESERVED_XENSTORE, GNTTAB_RESERVED_CONSOLE]
            .into_iter()
            .zip(ring_frames)
        {
            grants
                .seed(gref, DomId::DOM0, gfn)
                .map_err(SetupError::host("the grant table"))?;
        }
        let output = Arc::new(ConsoleOutput::new(console.output));
        let domain = Arc::new(Domain::new(Parts {
            domid: GUEST,
            vcpus: config.vcpus,
            uuid: uuid(&config.name),
            timers,
            handles,
            grace,
            vm: vm.clone(),
            ram,
            ports,
            grants,
            tables: tables.clone(),
            upcall,
            console: output.clone(),
            pv: pv.as_ref().map(PvSetup::domain),
        }));

        let stop = services::event()?;
        let store = Shared::new(Server::new());
        let rings = Rings::new(&domain, &dom0, ring_frames)?;
        let ports = rings.ports();
        let (store_ring, console_ring) =
            rings.serve(&domain, &store, &config, console.input, output)?;
        let platform = Platform {
            store: store.clone(),
            channels: dom0,
            grants: Arc::new(InProcessMapper::new(tables, DomId::DOM0)),
            guest: GUEST,
            guest_name: config.name.clone(),
        };
        let devices = devices::create(&platform, &config)?;
        let disks: Vec<_> = devices.iter().map(Device::served).collect();
        let nets = Arc::new(Nets::new(platform, &stop, &config.nets)?);
        let cpuid = cpuid::supported(&kvm)?;
        let start = match pv {
            None => Start::Pvh(load(&domain.ram, &kernel, &config)?),
            Some(pv) => Start::Pv(pv.load(&domain, &cpuid, ports)?),
        };
        let vcpus = create_vcpus(&vm, &domain, &cpuid, &start)?;
        let timers: Subscriber = Box::new(TimerEvents::new(domain.clone()));
        let mut services = vec![
            ("xenstore", vec![store_ring]),
            ("timers", vec![timers]),
            ("console", vec![console_ring]),
        ];
        if !disks.is_empty() {
            let client = store
                .client(DomId::DOM0)
                .map_err(SetupError::host("xenstore"))?;
            let disks =
                Disks::new(Arc::new(client), disks).map_err(SetupError::host("xenstore"))?;
            services.push(("disks", vec![Box::new(disks)]));
        }
        let client = store
            .client(DomId::DOM0)
            .map_err(SetupError::host("xenstore"))?;
        let watch = NetWatch::new(nets.clone(), Arc::new(client))?;
        services.push(("nets", vec![Box::new(watch)]));
        if let Some(path) = &config.xenstore_socket {
            let socket: Subscriber = Box::new(
                StoreSocket::listen(&store, path)
                    .map_err(SetupError::host("the xenstore socket"))?,
            );
            services.push(("xenstore socket", vec![socket]));
        }
        Ok(Self {
            domain,
            vcpus,
            services,
            devices,
            nets,
            stop,
            store,
            transport,
            began,
        })
    }

    /// Says in which language `attach` is said in xenstore (see the crate's README); without it nothing can be attached there.
    pub fn read_nets_with(&self, read: Arc<ReadNet>) {
        self.nets.read_with(read);
    }

    /// A handle for other threads.
    #[must_use]
    pub fn control(&self) -> MachineControl {
        MachineControl {
            domain: self.domain.clone(),
            nets: self.nets.clone(),
        }
    }

    /// Runs the guest to its end, whatever that is, and takes the host around it down.
    ///
    /// # Errors
    ///
    /// [`SetupError`] where a thread cannot be made; the guest has not run then.
    pub fn run(self) -> Result<Outcome, SetupError> {
        let Self {
            domain,
            vcpus,
            services,
            devices,
            nets,
            stop,
            store,
            transport,
            began,
        } = self;
        let mut running = Running::new(stop, nets.clone());
        let started = running.start(&domain, services, devices, vcpus);
        let first_instruction = began.elapsed();
        if started.is_err() {
            domain.end(End::Destroyed);
        }
        let end = domain.wait_for_end();
        let run = began.elapsed().saturating_sub(first_instruction);
        let devices = running.join();
        let mut stats = stats(&domain, transport, first_instruction, run);
        for device in devices {
            device.count(&mut stats);
        }
        nets.count(&mut stats);
        domain.end_grants();
        forget(&store);
        started.map(|()| Outcome { end, stats })
    }
}

/// Takes the guest out of the store.
fn forget(store: &Shared) {
    let gone = store
        .client(DomId::DOM0)
        .map_err(|e| e.to_string())
        .and_then(|client| toolstack::destroy_domain(&client, GUEST).map_err(|e| e.to_string()))
        .and_then(|()| store.release(GUEST).map_err(|e| e.to_string()));
    if let Err(error) = gone {
        tracing::warn!(
            error,
            "the guest's nodes could not be taken out of xenstore"
        );
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("domain", &self.domain)
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

/// A PV guest's hypercalls have one way only: whoever asks for another is told.
fn monitors_transport(choice: TransportChoice) -> Result<Transport, SetupError> {
    let transport = match choice {
        TransportChoice::Auto => return Ok(Transport::Monitor),
        TransportChoice::Xen => Transport::Xen,
        TransportChoice::Page => Transport::Page,
        TransportChoice::Rewrite => Transport::Rewrite,
    };
    Err(SetupError::Transport {
        transport: transport.name(),
        why: "a PV guest's hypercalls come by its monitor",
    })
}

/// Chooses how hypercalls arrive by what the host and the kernel offer, and prepares both for it.
fn choose_transport(
    vm: &VmFd,
    kernel: &mut KernelImage,
    choice: TransportChoice,
) -> Result<Transport, SetupError> {
    let transport = match choice {
        TransportChoice::Auto if xen::intercepts(vm) => Transport::Xen,
        TransportChoice::Auto if kernel.hypercall_sites().is_ok() => Transport::Rewrite,
        TransportChoice::Auto | TransportChoice::Page => Transport::Page,
        TransportChoice::Xen => Transport::Xen,
        TransportChoice::Rewrite => Transport::Rewrite,
    };
    let refuse = |why| SetupError::Transport {
        transport: transport.name(),
        why,
    };
    match transport {
        Transport::Xen if !xen::intercepts(vm) => {
            return Err(refuse(
                "this host's KVM has no Xen support (KVM_CAP_XEN_HVM)",
            ));
        }
        Transport::Xen => xen::configure(vm, false).map_err(|source| SetupError::Kvm {
            what: "KVM_XEN_HVM_CONFIG",
            source,
        })?,
        Transport::Page => vm::exit_on_unknown_msrs(vm)?,
        Transport::Rewrite => {
            kernel.rewrite_hypercalls(HYPERCALL_PORT).map_err(|_| {
                refuse("this kernel has no pair of vmmcall and vmcall functions to rewrite")
            })?;
            vm::exit_on_unknown_msrs(vm)?;
        }
        Transport::Monitor => {}
    }
    Ok(transport)
}

fn load(
    ram: &GuestRam,
    kernel: &KernelImage,
    config: &GuestConfig,
) -> Result<boot::Entry, SetupError> {
    let mut boot = BootConfig::new(kernel, config.memory);
    boot.initrd = config.initrd.as_deref().map(boot::Initrd::File);
    boot.cmdline = &config.cmdline;
    boot.vcpus = config.vcpus;
    Ok(boot::load(ram.memory(), &boot)?)
}

/// A number for the guest that stays the same as long as its name does: a version 8 UUID over a hash of the name.
fn uuid(name: &str) -> [u8; 16] {
    let mut bytes = devices::name_hash(name).to_le_bytes();
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    bytes
}

fn create_vcpus(
    vm: &VmFd,
    domain: &Domain,
    supported: &[kvm_cpuid_entry2],
    start: &Start,
) -> Result<Vec<VcpuFd>, SetupError> {
    let kind = match domain.pv {
        Some(_) => GuestKind::Pv,
        None => GuestKind::Pvh,
    };
    let mut tsc_khz = 0;
    let mut vcpus = Vec::new();
    for id in (0..domain.vcpus).map(VcpuId) {
        let first = id.0 == 0;
        let fd = vcpu::create(vm, id)?;
        if first {
            tsc_khz = fd.get_tsc_khz().unwrap_or(0);
        }
        if let Some(kernel) = domain.kernel_delivery() {
            kernel
                .add_vcpu(id, &fd)
                .map_err(SetupError::host("a vCPU's events"))?;
        }
        let table = cpuid::for_vcpu(supported, id, domain.vcpus, domain.domid, tsc_khz, kind)?;
        vcpus.push(vcpu::set_up(fd, &table, id, Some(start))?);
    }
    Ok(vcpus)
}

fn stats(
    domain: &Domain,
    transport: Transport,
    first_instruction: Duration,
    run: Duration,
) -> Stats {
    let events = domain.ports.stats();
    let grants = domain.grants.stats();
    let named = |pairs: &[(&str, u64)]| {
        pairs
            .iter()
            .map(|(name, n)| ((*name).to_owned(), *n))
            .collect()
    };
    let monitor = domain.pv.as_ref().map(PvDomain::memory);
    Stats {
        kind: if monitor.is_some() { "pv" } else { "pvh" },
        monitor,
        transport: transport.name(),
        evtchn: match domain.ports.abi() {
            Abi::TwoLevel => "2l",
            Abi::Fifo => "fifo",
        },
        delivery: match domain.kernel_delivery() {
            Some(kernel) if kernel.is_on() => "kernel",
            _ => "user",
        },
        first_instruction_s: first_instruction.as_secs_f64(),
        run_s: run.as_secs_f64(),
        exits: domain.counters().exits(),
        hypercalls: domain.counters().hypercalls(),
        unknown_hypercalls: domain.counters().unknown_hypercalls(),
        events: named(&[
            ("sends", events.sends),
            ("virqs", events.virqs),
            ("ipis", events.ipis),
            ("pirqs", events.pirqs),
            ("early", events.early),
            ("upcalls", events.upcalls),
            ("upcalls_failed", domain.upcall.failed()),
        ]),
        grants: named(&[
            ("maps", grants.maps),
            ("unmaps", grants.unmaps),
            ("copies", grants.copies),
            ("bytes_copied", grants.bytes),
        ]),
        ..Stats::default()
    }
}
