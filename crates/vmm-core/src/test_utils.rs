//! Hypercalls without a running guest: a domain on the real `/dev/kvm` whose vCPUs never run, and calls made in their name.
//!
//! ```
//! use cantle_abi::xen::__HYPERVISOR_xen_version;
//! use cantle_vmm_core::test_utils::Harness;
//!
//! // None where there is no KVM.
//! if let Some(harness) = Harness::new() {
//!     assert_eq!(harness.call(0, __HYPERVISOR_xen_version, &[0, 0]), 4 << 16 | 17);
//! }
//! ```

mod drive;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use cantle_abi::hvm::{
    HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_CONSOLE_PFN, HVM_PARAM_STORE_EVTCHN, HVM_PARAM_STORE_PFN,
};
use cantle_abi::{DomId, VcpuId};
use cantle_evtchn::{Channel, EventChannels, GuestConfig as PortConfig, Hub};
use cantle_grant::Tables;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::boot::layout;
use crate::boot::pv::MonitorLayout;
use crate::config::{GrantConfig, GuestKind};
use crate::console::ConsoleOutput;
use crate::domain::{Domain, Parts};
use crate::grants;
use crate::hypercall::{Call, Caller, Paging, dispatch};
use crate::kvm::delivery::KernelDelivery;
use crate::kvm::grace::Grace;
use crate::kvm::upcall::MsiUpcall;
use crate::kvm::vcpu::VcpuHandle;
use crate::kvm::{vm, xen};
use crate::memory::{GuestRam, Places};
use crate::pv::PvDomain;
use crate::timers::Timers;

/// The guest's number.
pub const GUEST: DomId = DomId(1);
/// The other one of a [`Harness::pair`].
pub const OTHER: DomId = DomId(2);
/// Its vCPUs.
pub const VCPUS: u32 = 4;
/// Its memory, in bytes.
pub const MEMORY: u64 = 16 << 20;
/// Frames that its grant table can have.
pub const GRANT_FRAMES: u32 = 4;
/// Where a test may put arguments, guest-physical and -virtual.
pub const ARGS: u64 = 0x10_0000;
/// Bytes there.
pub const ARGS_LEN: u64 = 0x1_0000;

/// The top-level page table; the others follow.
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const LOW_PD: u64 = 0x3000;
const HIGH_PD: u64 = 0x4000;
const LOW_PT: u64 = 0x5000;
/// Behind the last of them.
const TABLES_END: u64 = LOW_PT + (MEMORY >> 21 << 12);
/// Present and writable.
const RW: u64 = 3;
/// A large page.
const LARGE: u64 = 1 << 7;

fn null() -> OwnedFd {
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null");
    null.expect("/dev/null opens").into()
}

/// A table of [`GRANT_FRAMES`], and the highest version that its guest may choose.
#[must_use]
pub fn small_grants(max_grant_version: u32) -> GrantConfig {
    GrantConfig {
        max_grant_version,
        max_grant_frames: GRANT_FRAMES,
        ..GrantConfig::default()
    }
}

/// What a harness is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pvh,
    /// KVM has hypercalls and events, where it can.
    Xen,
    Pv,
}

impl Kind {
    fn of_guest(self) -> GuestKind {
        match self {
            Self::Pv => GuestKind::Pv,
            _ => GuestKind::Pvh,
        }
    }
}

/// A domain whose vCPUs do not run, and its memory.
///
/// Addresses are mapped to themselves by page tables in guest memory: RAM by small pages, the special pages by a large one.
pub struct Harness {
    domain: Arc<Domain>,
    /// The host's ends, kept open.
    #[cfg_attr(not(test), expect(dead_code, reason = "they are only to stay"))]
    channels: Vec<Box<dyn Channel>>,
}

impl Harness {
    /// A domain with its console going nowhere. `None`, with a word about it, where there is no KVM (in CI: a panic).
    ///
    /// # Panics
    ///
    /// Where KVM is there and cannot be used.
    #[must_use]
    pub fn new() -> Option<Self> {
        Self::with_console(null())
    }

    /// A domain whose console goes to `output`.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    #[must_use]
    pub fn with_console(output: OwnedFd) -> Option<Self> {
        Self::make(
            GUEST,
            &Arc::new(Tables::new()),
            output,
            &small_grants(1),
            Kind::Pvh,
        )
    }

    /// A PV domain with the monitor's memory written; addresses in its calls are those of the monitor's direct map.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    #[must_use]
    pub fn pv() -> Option<Self> {
        Self::pv_with_console(null())
    }

    /// As [`pv`](Self::pv), with its console going to `output`.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    #[must_use]
    pub fn pv_with_console(output: OwnedFd) -> Option<Self> {
        Self::make(
            GUEST,
            &Arc::new(Tables::new()),
            output,
            &small_grants(2),
            Kind::Pv,
        )
    }

    /// A domain with a grant table of a certain kind.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new); and where `grants` is out of its limits.
    #[must_use]
    pub fn with_grants(grants: &GrantConfig) -> Option<Self> {
        Self::make(GUEST, &Arc::new(Tables::new()), null(), grants, Kind::Pvh)
    }

    /// Two domains, [`GUEST`] and [`OTHER`], that know each other's grants.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    #[must_use]
    pub fn pair() -> Option<(Self, Self)> {
        Self::pair_with(&small_grants(1))
    }

    /// As [`pair`](Self::pair), with grant tables of a certain kind.
    ///
    /// # Panics
    ///
    /// As [`with_grants`](Self::with_grants).
    #[must_use]
    pub fn pair_with(grants: &GrantConfig) -> Option<(Self, Self)> {
        let tables = Arc::new(Tables::new());
        let one = Self::make(GUEST, &tables, null(), grants, Kind::Pvh)?;
        Some((one, Self::make(OTHER, &tables, null(), grants, Kind::Pvh)?))
    }

    /// A domain whose events KVM delivers. `None`, with a word about it, where it cannot.
    #[cfg(test)]
    pub(crate) fn with_kernel_delivery() -> Option<Self> {
        let harness = Self::make(
            GUEST,
            &Arc::new(Tables::new()),
            null(),
            &small_grants(1),
            Kind::Xen,
        )?;
        if harness.domain.kernel_delivery().is_none() {
            eprintln!("SKIPPED: this KVM delivers no Xen events (KVM_CAP_XEN_HVM)");
            return None;
        }
        Some(harness)
    }

    fn make(
        domid: DomId,
        tables: &Arc<Tables>,
        output: OwnedFd,
        config: &GrantConfig,
        kind: Kind,
    ) -> Option<Self> {
        if !Path::new("/dev/kvm").exists() {
            assert!(
                std::env::var_os("CI").is_none(),
                "/dev/kvm: no KVM here, and this is CI"
            );
            eprintln!("SKIPPED: /dev/kvm: no KVM here");
            return None;
        }
        let vm = Arc::new(vm::create(&vm::open().expect("KVM opens")).expect("a VM is made"));
        let grace = Arc::new(Grace::new().expect("a timer is made"));
        let layout = MonitorLayout::plan(cantle_pv_image::MONITOR, VCPUS, MEMORY >> 12, 0xf_0008)
            .expect("the monitor is an image");
        let places = match kind {
            Kind::Pv => Places::pv(*layout.guest()),
            _ => Places::pvh(MEMORY),
        };
        let ram = grants::memory(vm.clone(), places, config, grace.clone());
        let ram = ram.expect("memory is made");
        let hub = Hub::new();
        let dom0 = hub.add_system(DomId::DOM0).expect("domain 0 is made");
        let timers = Arc::new(Timers::new(vm.clone(), VCPUS).expect("timers are made"));
        let handles: Arc<[VcpuHandle]> = (0..VCPUS).map(|_| VcpuHandle::default()).collect();
        let kernel = (kind == Kind::Xen && xen::delivers(&vm)).then(|| {
            xen::configure(&vm, false).expect("hypercalls are intercepted");
            let (timers, grace) = (timers.clone(), grace.clone());
            KernelDelivery::new(vm.clone(), handles.clone(), timers, grace).expect("events are")
        });
        let kernel = kernel.flatten();
        let upcall = Arc::new(MsiUpcall::new(vm.clone(), VCPUS, kernel).expect("timers are made"));
        let ports = PortConfig {
            vcpus: VCPUS,
            max_ports: 1 << 17,
        };
        let ports = hub
            .add_guest(domid, ports, Arc::new(ram.shared_info()), upcall.clone())
            .expect("event channels are made");
        let grants =
            grants::create(domid, config, &ram, kind.of_guest()).expect("a grant table is made");
        tables.insert(grants.clone()).expect("the first table");
        let domain = Arc::new(Domain::new(Parts {
            domid,
            vcpus: VCPUS,
            uuid: *b"cantle-test-uuid",
            timers,
            handles,
            grace,
            vm,
            ram,
            ports,
            grants,
            tables: tables.clone(),
            upcall,
            console: Arc::new(ConsoleOutput::new(output)),
            pv: (kind == Kind::Pv).then(|| PvDomain::new(layout)),
        }));
        let rings = [
            (
                HVM_PARAM_STORE_PFN,
                HVM_PARAM_STORE_EVTCHN,
                layout::STORE_GFN,
            ),
            (
                HVM_PARAM_CONSOLE_PFN,
                HVM_PARAM_CONSOLE_EVTCHN,
                layout::CONSOLE_GFN,
            ),
        ];
        let connect = |(pfn, evtchn, gfn): (u32, u32, cantle_abi::Gfn)| {
            let port = domain
                .ports
                .give_unbound(DomId::DOM0)
                .expect("a port is free");
            domain.set_param(pfn, gfn.0);
            domain.set_param(evtchn, port.0.into());
            dom0.bind_interdomain(domid, port)
                .expect("domain 0 binds it")
        };
        let channels = rings.into_iter().map(connect).collect();
        let harness = Self { domain, channels };
        match &harness.domain.pv {
            None => harness.map_memory(),
            Some(pv) => pv.write_for_tests(harness.ram().memory()),
        }
        Some(harness)
    }

    /// Writes the page tables anew, over whatever became of them.
    pub fn map_memory(&self) {
        for table in (PML4..TABLES_END).step_by(8) {
            self.put(table, &0_u64);
        }
        self.put(PML4, &(PDPT | RW));
        self.put(PDPT, &(LOW_PD | RW));
        self.put(PDPT + 3 * 8, &(HIGH_PD | RW));
        let special = layout::SPECIAL_GFN.0 << 12;
        let large = special & !((1 << 21) - 1);
        self.put(HIGH_PD + ((large >> 21) & 0x1ff) * 8, &(large | RW | LARGE));
        for table in 0..MEMORY >> 21 {
            self.put(LOW_PD + table * 8, &((LOW_PT + (table << 12)) | RW));
        }
        for page in 0..MEMORY >> 12 {
            self.put(Self::pte(page << 12), &(page << 12 | RW));
        }
    }

    /// Where the entry of the last level for an address of RAM is.
    #[must_use]
    pub fn pte(address: u64) -> u64 {
        LOW_PT + (address >> 12) * 8
    }

    /// The range of the page tables.
    #[must_use]
    pub fn tables() -> std::ops::Range<u64> {
        PML4..TABLES_END
    }

    /// Makes a hypercall as a vCPU's kernel does; arguments that are not given are 0.
    #[must_use]
    pub fn call(&self, vcpu: u32, nr: u32, args: &[u64]) -> i64 {
        self.call_at(0, vcpu, nr.into(), args)
    }

    /// Makes a hypercall from a privilege level, by a number that may be any.
    #[must_use]
    pub fn call_at(&self, cpl: u8, vcpu: u32, nr: u64, args: &[u64]) -> i64 {
        let long_mode = Paging {
            cr0: 0x8000_0011,
            cr3: self.domain.pv.as_ref().map_or(PML4, PvDomain::top),
            cr4: 0x20,
            efer: 0x500,
        };
        let mut all = [0; 5];
        for (to, from) in all.iter_mut().zip(args) {
            *to = *from;
        }
        let caller = Caller::new(&self.domain, VcpuId(vcpu), long_mode, cpl);
        dispatch(&caller, &Call { nr, args: all })
    }

    /// The guest's memory.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        &self.domain.ram
    }

    /// Writes to guest-physical memory.
    ///
    /// # Panics
    ///
    /// Outside of RAM and the special pages.
    pub fn put<T: IntoBytes + Immutable + ?Sized>(&self, gpa: u64, value: &T) {
        self.ram()
            .memory()
            .write_slice(value.as_bytes(), GuestAddress(gpa))
            .expect("an address in memory");
    }

    /// Reads from guest-physical memory.
    ///
    /// # Panics
    ///
    /// Outside of RAM and the special pages.
    #[must_use]
    pub fn get<T: FromBytes + IntoBytes>(&self, gpa: u64) -> T {
        let mut value = T::new_zeroed();
        self.ram()
            .memory()
            .read_slice(value.as_mut_bytes(), GuestAddress(gpa))
            .expect("an address in memory");
        value
    }

    /// Whether the guest has ended its run.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.domain.has_ended()
    }

    /// How often each unknown hypercall number was called.
    #[must_use]
    pub fn unknown_hypercalls(&self) -> BTreeMap<u64, u64> {
        self.domain.counters().unknown_hypercalls()
    }

    /// The host's end of the console's channel, once.
    #[cfg(test)]
    pub(crate) fn console_channel(&mut self) -> Option<Box<dyn Channel>> {
        self.channels.pop()
    }

    #[cfg(test)]
    pub(crate) fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }
}

impl Drop for Harness {
    /// A domain that has mapped its own pages would keep itself for ever.
    fn drop(&mut self) {
        self.domain.end_grants();
    }
}

impl std::fmt::Debug for Harness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Harness")
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}
