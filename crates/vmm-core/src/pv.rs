//! A PV guest as its host knows it: which frames are its, where the monitor keeps what, and how both get there.
//!
//! # What saving and moving a PV guest will need
//!
//! A PV guest knows frames of the VM by number, so that at another place its P2M and its page tables have to be rewritten. What for is at hand:
//! [`PvDomain::frames`] (its memory; all other frames are the monitor's or the host's), the P2M by the guest's own word in shared info
//! ([`PvDomain::p2m`]: `p2m_vaddr` in the address space of `p2m_cr3`, or `pfn_to_mfn_frame_list_list`), and of each vCPU the state that the monitor keeps
//! in its area ([`PvDomain::area_page`], `cantle_pv_monitor::vcpu`). What of the VM's memory is the monitor's is built anew at the target.

use std::mem::offset_of;
use std::sync::Arc;

use cantle_abi::xen::{ArchSharedInfo, SharedInfo, VcpuInfo, XEN_LEGACY_MAX_VCPUS};
use cantle_abi::{Errno, Gfn, PAGE_SHIFT, VcpuId};
use cantle_evtchn::Upcall;
use cantle_pv_monitor::hypercall_page;
use cantle_pv_monitor::interface::FLAG_ONE_ADDRESS_SPACE;
use kvm_bindings::kvm_cpuid_entry2;
use serde::Serialize;
use zerocopy::{FromZeros, IntoBytes};

use crate::boot::pv::{
    MonitorError, MonitorLayout, MonitorStart, PvBoot, PvFrames, PvKernel, PvRings,
};
use crate::boot::{Initrd, KernelImage};
use crate::config::GuestConfig;
use crate::domain::Domain;
use crate::error::SetupError;
use crate::hypercall::{HYPERCALL_PORT, XEN_VERSION};
use crate::kvm::pv::MonitorEntry;
use crate::memory::{GuestRam, HeapPage};

/// The vector by which the monitor is told to look for events. No exception, and the highest priority class but one.
pub(crate) const UPCALL_VECTOR: u8 = 0xe0;
/// An entry of the machine-to-physical table that has no page.
const INVALID_PFN: u64 = u64::MAX;

/// Memory that the monitor of a PV guest takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MonitorMemory {
    /// Its image, tables and areas, in KiB.
    pub own_kib: u64,
    /// The machine-to-physical table, in KiB.
    pub m2p_kib: u64,
}

/// What a PV domain has that others have not.
#[derive(Debug)]
pub(crate) struct PvDomain {
    layout: MonitorLayout,
}

impl PvDomain {
    /// Of a layout that is written, or is going to be.
    pub(crate) fn new(layout: MonitorLayout) -> Self {
        Self { layout }
    }

    /// Its memory.
    pub(crate) fn frames(&self) -> &PvFrames {
        self.layout.guest()
    }

    /// Where the guest says that its P2M is. To be believed as little as anything that it says.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for saving and moving a guest, to come")
    )]
    pub(crate) fn p2m(&self, ram: &GuestRam) -> Result<ArchSharedInfo, Errno> {
        let page = HeapPage::SHARED_INFO.pv_frame().0 << PAGE_SHIFT;
        let mut told = ArchSharedInfo::new_zeroed();
        ram.read(
            page + offset_of!(SharedInfo, arch) as u64,
            told.as_mut_bytes(),
        )?;
        Ok(told)
    }

    /// The guest-physical address of a page of a vCPU's area in the monitor.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for saving and moving a guest, to come")
    )]
    pub(crate) fn area_page(&self, vcpu: VcpuId, page: u64) -> Option<u64> {
        self.layout.area_page(vcpu.0, page)
    }

    /// Says which page a frame of the guest's is, or that it is none now.
    pub(crate) fn set_pfn(&self, ram: &GuestRam, mfn: u64, pfn: Option<u64>) -> Result<(), Errno> {
        if !self.frames().contains(mfn) {
            return Err(Errno::EINVAL);
        }
        let at = self.layout.m2p() + mfn * 8;
        ram.write(at, &pfn.unwrap_or(INVALID_PFN).to_le_bytes())
    }

    /// The guest-physical address of the machine-to-physical table.
    pub(crate) fn m2p(&self) -> u64 {
        self.layout.m2p()
    }

    /// The guest-physical address of the monitor's top-level table.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn top(&self) -> u64 {
        self.layout.begin().1
    }

    /// Writes the monitor's memory, for a guest that begins nowhere.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn write_for_tests(&self, memory: &vm_memory::GuestMemoryMmap<()>) {
        let nothing = cantle_pv_monitor::interface::Frames { start: 0, end: 0 };
        let start = MonitorStart {
            flags: 0,
            xen_version: XEN_VERSION,
            hypercall_port: u16::from(HYPERCALL_PORT),
            upcall_vector: UPCALL_VECTOR,
            special: nothing,
            shared_info: HeapPage::SHARED_INFO.pv_frame().0,
            entry: crate::boot::pv::PvEntry {
                rip: 0,
                rsp: 0,
                rsi: 0,
                l4: 0,
            },
        };
        self.layout
            .write(memory, cantle_pv_image::MONITOR, &start)
            .expect("there is memory for it");
    }

    pub(crate) fn memory(&self) -> MonitorMemory {
        let (own, m2p) = self.layout.memory();
        MonitorMemory {
            own_kib: own >> 10,
            m2p_kib: m2p.div_ceil(1 << 10),
        }
    }
}

/// A PV guest that is planned; its memory is not there yet.
pub(crate) struct PvSetup<'a> {
    boot: PvBoot<'a>,
    layout: MonitorLayout,
}

impl<'a> PvSetup<'a> {
    pub(crate) fn plan(
        kernel: &'a KernelImage,
        config: &'a GuestConfig,
    ) -> Result<Self, SetupError> {
        let pages = config.memory >> PAGE_SHIFT;
        let initrd = config.initrd.as_deref().map(Initrd::File);
        let boot = PvBoot::plan(kernel, initrd, &config.cmdline, pages)?;
        let shared_info = HeapPage::SHARED_INFO.pv_frame().0;
        let layout =
            MonitorLayout::plan(cantle_pv_image::MONITOR, config.vcpus, pages, shared_info);
        Ok(Self {
            boot,
            layout: layout.map_err(monitor)?,
        })
    }

    /// Its memory.
    pub(crate) fn frames(&self) -> &PvFrames {
        self.layout.guest()
    }

    /// What the domain will be.
    pub(crate) fn domain(&self) -> PvDomain {
        PvDomain::new(self.layout.clone())
    }

    /// The frames of the rings: xenstore's, and the console's.
    pub(crate) fn rings(&self) -> [Gfn; 2] {
        let layout = self.boot.layout();
        [layout.store, layout.console].map(|pfn| Gfn(self.frames().mfn(pfn).unwrap_or(0)))
    }

    /// Writes guest and monitor, and has the monitor told of events.
    pub(crate) fn load(
        self,
        domain: &Arc<Domain>,
        cpuid: &[kvm_cpuid_entry2],
        [store_port, console_port]: [u32; 2],
    ) -> Result<MonitorEntry, SetupError> {
        let ram = &domain.ram;
        let flags = flags(self.boot.kernel(), cpuid);
        let rings = PvRings {
            shared_info: HeapPage::SHARED_INFO.pv_frame().0,
            store_port,
            console_port,
        };
        for (page, gfn) in [HeapPage::STORE, HeapPage::CONSOLE]
            .into_iter()
            .zip(self.rings())
        {
            let placed = ram.place(page, gfn);
            placed.map_err(SetupError::host("the guest's rings"))?;
        }
        let page = hypercall_page::contents();
        let entry = self
            .boot
            .load(ram.memory(), self.layout.guest(), &rings, &page)?;
        let start = MonitorStart {
            flags,
            xen_version: XEN_VERSION,
            hypercall_port: u16::from(HYPERCALL_PORT),
            upcall_vector: UPCALL_VECTOR,
            special: ram.pv_special(),
            shared_info: rings.shared_info,
            entry,
        };
        self.layout
            .write(ram.memory(), cantle_pv_image::MONITOR, &start)
            .map_err(monitor)?;
        domain.shared_info_placed(Gfn(rings.shared_info));
        for vcpu in 0..domain.vcpus {
            mask_events(ram, vcpu)?;
        }
        for vcpu in (0..domain.vcpus).map(VcpuId) {
            domain.upcall.set_vector(vcpu, UPCALL_VECTOR);
            if domain.ports.upcall_pending(vcpu) {
                domain.upcall.raise(vcpu);
            }
        }
        let (entry, top) = self.layout.begin();
        Ok(MonitorEntry { entry, top })
    }
}

/// A vCPU begins with its events masked (`evtchn_upcall_mask`), as a vCPU does in Xen.
fn mask_events(ram: &GuestRam, vcpu: u32) -> Result<(), SetupError> {
    let index = usize::try_from(vcpu).unwrap_or(usize::MAX);
    if index < XEN_LEGACY_MAX_VCPUS {
        let info = offset_of!(SharedInfo, vcpu_info) + index * size_of::<VcpuInfo>();
        let offset = info + offset_of!(VcpuInfo, evtchn_upcall_mask);
        let page = HeapPage::SHARED_INFO.pv_frame().0 << PAGE_SHIFT;
        ram.write(page + offset as u64, &[1])
            .map_err(SetupError::host("shared info"))?;
    }
    Ok(())
}

fn monitor(error: MonitorError) -> SetupError {
    SetupError::host::<MonitorError>("the monitor of PV guests")(error)
}

/// Linux never maps its own memory for programs, so that both can run on the same tables; but not on a processor that lets programs look
/// at what is mapped for others (Meltdown).
fn flags(kernel: &PvKernel, cpuid: &[kvm_cpuid_entry2]) -> u32 {
    if kernel.is_linux() && !may_have_meltdown(cpuid) {
        FLAG_ONE_ADDRESS_SPACE
    } else {
        0
    }
}

/// Intel's processors may, unless they say that they have it not, which only the host's kernel knows.
fn may_have_meltdown(cpuid: &[kvm_cpuid_entry2]) -> bool {
    let intel = cpuid
        .iter()
        .any(|leaf| leaf.function == 0 && leaf.ebx.to_le_bytes() == *b"Genu");
    let told = std::fs::read_to_string("/sys/devices/system/cpu/vulnerabilities/meltdown");
    intel && !told.is_ok_and(|text| text.starts_with("Not affected"))
}

#[cfg(test)]
mod tests;
