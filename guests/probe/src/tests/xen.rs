//! The hypervisor's answers that have nothing to do with devices.

use core::sync::atomic::Ordering;

use cantle_abi::cpuid::{XEN_HVM_CPUID_UPCALL_VECTOR, XEN_HVM_CPUID_VCPU_ID_PRESENT};
use cantle_abi::event_channel::EVTCHNOP_alloc_unbound;
use cantle_abi::grant_table::GNTTABOP_query_size;
use cantle_abi::memory::{
    XENMEM_current_reservation, XENMEM_decrease_reservation, XENMEM_memory_map,
    XENMEM_populate_physmap, XenMemoryMap, XenMemoryReservation,
};
use cantle_abi::sched::SCHEDOP_shutdown;
use cantle_abi::version::{
    XENFEAT_auto_translated_physmap, XENFEAT_hvm_callback_vector, XENFEAT_hvm_safe_pvclock,
    XENVER_extraversion, XENVER_get_features, XENVER_pagesize, XENVER_version, XenFeatureInfo,
};
use cantle_abi::xen::{
    __HYPERVISOR_event_channel_op, __HYPERVISOR_grant_table_op, __HYPERVISOR_hvm_op,
    __HYPERVISOR_memory_op, __HYPERVISOR_multicall, __HYPERVISOR_sched_op,
    __HYPERVISOR_xen_version,
};
use cantle_abi::{DomId, Errno, PAGE_SIZE, hvm};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::report::{Because as _, Outcome, refused};
use crate::text::Text;
use crate::{Probe, ensure, hypercall, memory, params, say};

pub(super) fn cpuid(_: &mut Probe) -> Outcome {
    ensure!(hypercall::detect(), "no leaf has Xen's signature");
    let [last, ..] = hypercall::leaf(0);
    let [version, ..] = hypercall::leaf(1);
    let [pages, msr, ..] = hypercall::leaf(2);
    let [features, vcpu, domid, _] = hypercall::leaf(4);
    ensure!(last & 0xffff >= 4, "the last leaf is {last:#x}");
    ensure!(version >> 16 >= 4, "Xen's version is {version:#x}");
    ensure!(
        pages == 1 && msr != 0,
        "{pages} hypercall pages, MSR {msr:#x}"
    );
    let wanted = XEN_HVM_CPUID_UPCALL_VECTOR | XEN_HVM_CPUID_VCPU_ID_PRESENT;
    ensure!(
        features & wanted == wanted,
        "the features are {features:#x}"
    );
    ensure!(vcpu == 0, "the first vCPU is number {vcpu}");
    say!(
        "probe: cpuid: Xen {}.{}, MSR {msr:#x}, features {features:#x}, domain {domid}",
        version >> 16,
        version & 0xffff
    );
    Ok(())
}

pub(super) fn version(_: &mut Probe) -> Outcome {
    let version = hypercall::numbers(__HYPERVISOR_xen_version, [u64::from(XENVER_version), 0, 0])
        .because("XENVER_version")?;
    let mut extra = [0_u8; 16];
    hypercall::op(__HYPERVISOR_xen_version, XENVER_extraversion, &mut extra)
        .because("XENVER_extraversion")?;
    let end = extra.iter().position(|b| *b == 0);
    ensure!(end.is_some(), "the extra version has no end");
    let extra = Text::<16>::from_bytes(extra.split(|b| *b == 0).next().unwrap_or_default());
    let page = hypercall::numbers(__HYPERVISOR_xen_version, [u64::from(XENVER_pagesize), 0, 0])
        .because("XENVER_pagesize")?;
    ensure!(page == PAGE_SIZE as u64, "the page size is {page}");
    let mut features = XenFeatureInfo {
        submap_idx: 0,
        submap: 0,
    };
    hypercall::op(__HYPERVISOR_xen_version, XENVER_get_features, &mut features)
        .because("XENVER_get_features")?;
    for (bit, name) in [
        (XENFEAT_auto_translated_physmap, "auto_translated_physmap"),
        (XENFEAT_hvm_callback_vector, "hvm_callback_vector"),
        (XENFEAT_hvm_safe_pvclock, "hvm_safe_pvclock"),
    ] {
        ensure!(
            features.submap & 1 << bit != 0,
            "feature {name} is missing from {:#x}",
            features.submap
        );
    }
    say!(
        "probe: version: {}.{}{extra}, features {:#x}",
        version >> 16,
        version & 0xffff,
        features.submap
    );
    Ok(())
}

pub(super) fn unknown_hypercall(_: &mut Probe) -> Outcome {
    for number in [11, 45, 55, 63] {
        let errno = refused(hypercall::numbers(number, [0; 3]), "an unknown hypercall")?;
        ensure!(errno == Errno::ENOSYS, "hypercall {number}: {errno}");
    }
    let command = [u64::from(u32::MAX), 0, 0];
    let errno = refused(
        hypercall::numbers(__HYPERVISOR_xen_version, command),
        "an unknown question of xen_version",
    )?;
    ensure!(errno == Errno::ENOSYS, "xen_version: {errno}");
    Ok(())
}

/// Arguments that lie nowhere are an error and no more: unmapped, not canonical, mapped to no memory, across the end of all addresses.
pub(super) fn bad_addresses(_: &mut Probe) -> Outcome {
    for address in [
        0xd000_0000,
        0x1_0000_0000,
        0x7fff_ffff_f000,
        0x0000_8000_0000_0000,
        0xffff_8000_0000_0000,
        u64::MAX - 3,
    ] {
        for (number, command, name) in [
            (__HYPERVISOR_hvm_op, hvm::HVMOP_get_param, "hvm_op"),
            (__HYPERVISOR_xen_version, XENVER_get_features, "xen_version"),
            (__HYPERVISOR_memory_op, XENMEM_memory_map, "memory_op"),
            (
                __HYPERVISOR_event_channel_op,
                EVTCHNOP_alloc_unbound,
                "event_channel_op",
            ),
            (
                __HYPERVISOR_grant_table_op,
                GNTTABOP_query_size,
                "grant_table_op",
            ),
            (__HYPERVISOR_sched_op, SCHEDOP_shutdown, "sched_op"),
        ] {
            // The third argument is the count of the one call that takes one.
            let errno = refused(hypercall::op_nowhere(number, command, address, 1), name)?;
            ensure!(errno == Errno::EFAULT, "{name} at {address:#x}: {errno}");
        }
    }
    Ok(())
}

pub(super) fn hvm_params(_: &mut Probe) -> Outcome {
    for (index, name) in [
        (hvm::HVM_PARAM_STORE_PFN, "STORE_PFN"),
        (hvm::HVM_PARAM_STORE_EVTCHN, "STORE_EVTCHN"),
        (hvm::HVM_PARAM_CONSOLE_PFN, "CONSOLE_PFN"),
        (hvm::HVM_PARAM_CONSOLE_EVTCHN, "CONSOLE_EVTCHN"),
    ] {
        let value = params::get(index).because(name)?;
        ensure!(value != 0, "{name} is 0");
    }
    // What Linux writes when its upcalls come by a vector of each vCPU.
    params::set(hvm::HVM_PARAM_CALLBACK_IRQ, 1).because("setting CALLBACK_IRQ")?;
    let too_large = refused(params::get(10_000), "parameter 10000")?;
    ensure!(too_large == Errno::EINVAL, "parameter 10000: {too_large}");
    Ok(())
}

pub(super) fn memory_map(_: &mut Probe) -> Outcome {
    let page = memory::page()?;
    let mut map = XenMemoryMap {
        nr_entries: 128,
        pad: 0,
        buffer: page.addr(),
    };
    hypercall::op(__HYPERVISOR_memory_op, XENMEM_memory_map, &mut map)
        .because("XENMEM_memory_map")?;
    ensure!(
        (1..=128).contains(&map.nr_entries),
        "{} entries",
        map.nr_entries
    );
    let first: [u32; 5] = page.read(0);
    ensure!(
        first[4] == 1 && first[0] == 0,
        "the first entry is {first:x?}"
    );
    Ok(())
}

fn reservation() -> Outcome<u64> {
    // The argument is the domain's number alone.
    let mut domid = DomId::SELF.0;
    hypercall::op(
        __HYPERVISOR_memory_op,
        XENMEM_current_reservation,
        &mut domid,
    )
    .because("XENMEM_current_reservation")
}

/// A page is given to the host, and another taken in its place.
pub(super) fn balloon(_: &mut Probe) -> Outcome {
    let (page, list) = (memory::page()?, memory::page()?);
    let gfn = page.gfn().0;
    page.fill(0, PAGE_SIZE, |_| u64::MAX);
    let mut extents = XenMemoryReservation {
        extent_start: list.addr(),
        nr_extents: 1,
        extent_order: 0,
        mem_flags: 0,
        domid: DomId::SELF,
        pad: [0; 3],
    };
    let before = reservation()?;
    list.word64(0).store(gfn, Ordering::Relaxed);
    let done = hypercall::op(
        __HYPERVISOR_memory_op,
        XENMEM_decrease_reservation,
        &mut extents,
    )
    .because("XENMEM_decrease_reservation")?;
    ensure!(done == 1, "{done} pages were given back");
    let between = reservation()?;
    ensure!(
        between + 1 == before,
        "the reservation went from {before} to {between} pages"
    );
    list.word64(0).store(gfn, Ordering::Relaxed);
    let done = hypercall::op(
        __HYPERVISOR_memory_op,
        XENMEM_populate_physmap,
        &mut extents,
    )
    .because("XENMEM_populate_physmap")?;
    ensure!(done == 1, "{done} pages were populated");
    ensure!(
        reservation()? == before,
        "the reservation is not what it was"
    );
    let old = page.word64(64).swap(42, Ordering::Relaxed);
    ensure!(old == 0, "the new page holds {old:#x}");
    ensure!(
        page.word64(64).load(Ordering::Relaxed) == 42,
        "the new page does not hold what is written to it"
    );
    Ok(())
}

/// `struct multicall_entry`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct MulticallEntry {
    op: u64,
    result: u64,
    args: [u64; 6],
}

pub(super) fn multicall(_: &mut Probe) -> Outcome {
    let ask = |what: u32| MulticallEntry {
        op: u64::from(__HYPERVISOR_xen_version),
        result: u64::MAX,
        args: [u64::from(what), 0, 0, 0, 0, 0],
    };
    let list = memory::page()?;
    list.write_bytes(0, [ask(XENVER_version), ask(XENVER_pagesize)].as_bytes());
    hypercall::multicall(__HYPERVISOR_multicall, &list, 2).because("multicall")?;
    let [version, page]: [MulticallEntry; 2] = list.read(0);
    ensure!(
        version.result >> 16 >= 4 && page.result == PAGE_SIZE as u64,
        "the results are {:#x} and {:#x}",
        version.result,
        page.result
    );
    Ok(())
}
