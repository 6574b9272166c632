//! The Rust names beside the C names.

use cantle_abi::{
    DomId, Errno, PAGE_SIZE, callback, cpuid, elfnote, event_channel, grant_table, hvm, io, memory,
    mmu, physdev, pv, ring, sched, start_info, vcpu, version, xen,
};
use std::mem::{align_of, offset_of, size_of, size_of_val};
use zerocopy::FromZeros;

/// A structure: its name in both languages, bytes, alignment, and its fields.
pub(crate) struct Layout {
    pub(crate) rust: &'static str,
    pub(crate) c: &'static str,
    pub(crate) size: usize,
    pub(crate) align: usize,
    pub(crate) fields: Vec<Field>,
}

/// A field by its C path.
pub(crate) struct Field {
    pub(crate) c: &'static str,
    pub(crate) offset: usize,
    pub(crate) size: usize,
}

/// A constant by its C name.
pub(crate) struct Constant {
    pub(crate) c: &'static str,
    pub(crate) value: i64,
}

/// The headers in which all of it is found, below `xen/`.
pub(crate) const HEADERS: &[&str] = &[
    "xen.h",
    "errno.h",
    "features.h",
    "version.h",
    "sched.h",
    "vcpu.h",
    "memory.h",
    "physdev.h",
    "callback.h",
    "elfnote.h",
    "event_channel.h",
    "grant_table.h",
    "arch-x86/cpuid.h",
    "arch-x86/hvm/start_info.h",
    "hvm/hvm_op.h",
    "hvm/params.h",
    "io/ring.h",
    "io/blkif.h",
    "io/netif.h",
    "io/protocols.h",
    "io/console.h",
    "io/xenbus.h",
    "io/xs_wire.h",
];

/// Constants of the crate that no header names (derived, or only in words).
pub(crate) const CONSTANTS_WITHOUT_C: &[&str] = &[
    "PAGE_SHIFT",
    "HYPERVISOR_VIRT_START",
    "HYPERVISOR_VIRT_END",
    "PAGE_SIZE",
    "GRANT_ENTRIES_PER_FRAME_V1",
    "GRANT_ENTRIES_PER_FRAME_V2",
    "GRANT_STATUS_PER_FRAME",
    "HYPERCALL_PAGE_ENTRIES",
    "XEN_ELFNOTE_NAME",
    "MEMOP_CMD_MASK",
    "BLKIF_SECTOR_SIZE",
    "BLKIF_SEGMENTS_PER_INDIRECT_PAGE",
    "MAX_RING_PAGES",
    "RING_HEADER_SIZE",
    "XENCONS_IN",
    "XENCONS_OUT",
    "XENSTORE_REQ",
    "XENSTORE_RSP",
    "XENSTORE_SERVER_FEATURES_OFFSET",
    "XENSTORE_CONNECTION_OFFSET",
    "XENSTORE_ERROR_OFFSET",
    "EVTCHNOP_reset_cont",
    "XEN_NETIF_EXTRA_TYPE_XDP",
    "XEN_NETIF_MAX_XDP_HEADROOM",
];

/// Structures of the crate that are none of the headers': numbers, accessors, errors, and the BIOS's `E820Entry`.
pub(crate) const STRUCTURES_WITHOUT_C: &[&str] = &[
    "DomId",
    "Port",
    "GrantRef",
    "Gfn",
    "VcpuId",
    "Errno",
    "XenbusState",
    "XsType",
    "ByteRing",
    "BackRing",
    "FrontRing",
    "Paged",
    "HeapPages",
    "SharedBytes",
    "RingFull",
    "RingBroken",
    "E820Entry",
];

macro_rules! texts {
    ($($module:ident)::+ { $($name:ident),* $(,)? }) => {{
        use $($module)::+ as m;
        [$((stringify!($name), m::$name)),*]
    }};
}

/// The keys of a block device in xenstore: Rust's name, and the text that the header's comments have.
pub(crate) fn blkif_keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    texts! {
        io::blkif::keys {
            FEATURE_BARRIER, FEATURE_FLUSH_CACHE, FEATURE_DISCARD, FEATURE_PERSISTENT, FEATURE_MAX_INDIRECT_SEGMENTS,
            MAX_RING_PAGE_ORDER, MAX_RING_PAGES, MULTI_QUEUE_MAX_QUEUES, INFO, SECTORS, SECTOR_SIZE, PHYSICAL_SECTOR_SIZE,
            DISCARD_ALIGNMENT, DISCARD_GRANULARITY, DISCARD_SECURE, DISCARD_ENABLE, PROTOCOL, EVENT_CHANNEL, RING_REF,
            RING_PAGE_ORDER, NUM_RING_PAGES, MULTI_QUEUE_NUM_QUEUES, FEATURE_LARGE_SECTOR_SIZE, TRUSTED
        }
    }
    .into_iter()
}

/// The same of a network device.
pub(crate) fn netif_keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    texts! {
        io::netif::keys {
            FEATURE_SPLIT_EVENT_CHANNELS, MULTI_QUEUE_MAX_QUEUES, FEATURE_MULTICAST_CONTROL,
            FEATURE_DYNAMIC_MULTICAST_CONTROL, FEATURE_CTRL_RING, CARRIER, FEATURE_NO_CSUM_OFFLOAD,
            FEATURE_IPV6_CSUM_OFFLOAD, FEATURE_GSO_TCPV4, FEATURE_GSO_TCPV6, FEATURE_RX_NOTIFY, MULTI_QUEUE_NUM_QUEUES,
            TX_RING_REF, RX_RING_REF, EVENT_CHANNEL, EVENT_CHANNEL_TX, EVENT_CHANNEL_RX, CTRL_RING_REF,
            EVENT_CHANNEL_CTRL, REQUEST_MULTICAST_CONTROL, MTU, TRUSTED
        }
    }
    .into_iter()
}

/// String constants of C, by the same name.
pub(crate) fn texts() -> impl Iterator<Item = (&'static str, &'static str)> {
    texts! {
        io::protocols { XEN_IO_PROTO_ABI_X86_32, XEN_IO_PROTO_ABI_X86_64, XEN_IO_PROTO_ABI_ARM }
    }
    .into_iter()
}

/// `module => Type = "C type" { fields, renamed => "c.path" } split { first..last => "c" } pad { rust only }`.
///
/// The pattern names every field, so that one left out does not compile.
macro_rules! layouts {
    ($($($module:ident)::+ => $rust:ident = $c:literal { $($field:ident $(=> $name:literal)?),* $(,)? }
        $(split { $($first:ident .. $last:ident => $whole:literal),* })?
        $(pad { $($pad:ident),* })? ;)*) => {
        vec![$({
            use $($module)::+::$rust as T;
            let value = T::new_zeroed();
            let T { $($field: _,)* $($($first: _, $last: _,)*)? $($($pad: _,)*)? } = &value;
            Layout {
                rust: stringify!($rust),
                c: $c,
                size: size_of::<T>(),
                align: align_of::<T>(),
                fields: vec![
                    $(Field {
                        c: [$($name,)? stringify!($field)][0],
                        offset: offset_of!(T, $field),
                        size: size_of_val(&value.$field),
                    },)*
                    $($(Field {
                        c: $whole,
                        offset: offset_of!(T, $first),
                        size: offset_of!(T, $last) + size_of_val(&value.$last) - offset_of!(T, $first),
                    },)*)?
                ],
            }
        }),*]
    };
}

pub(crate) fn layouts() -> Vec<Layout> {
    layouts! {
        xen => VcpuTimeInfo = "struct vcpu_time_info" {
            version, pad0, tsc_timestamp, system_time, tsc_to_system_mul, tsc_shift, flags, pad1
        };
        xen => VcpuInfo = "struct vcpu_info" {
            evtchn_upcall_pending, evtchn_upcall_mask, evtchn_pending_sel, cr2 => "arch.cr2", time
        } pad { pad, pad2 };
        xen => SharedInfo = "struct shared_info" {
            vcpu_info, evtchn_pending, evtchn_mask, wc_version, wc_sec, wc_nsec, wc_sec_hi, arch
        };
        xen => ArchSharedInfo = "struct arch_shared_info" {
            max_pfn, pfn_to_mfn_frame_list_list, nmi_reason, p2m_cr3, p2m_vaddr, p2m_generation
        };
        xen => MulticallEntry = "struct multicall_entry" { op, result, args };
        version => XenFeatureInfo = "struct xen_feature_info" { submap_idx, submap };
        sched => SchedShutdown = "struct sched_shutdown" { reason };
        sched => SchedPoll = "struct sched_poll" { ports, nr_ports, timeout } pad { pad };
        sched => SchedWatchdog = "struct sched_watchdog" { id, timeout };
        vcpu => VcpuRunstateInfo = "struct vcpu_runstate_info" { state, state_entry_time, time } pad { pad };
        vcpu => VcpuRegisterVcpuInfo = "struct vcpu_register_vcpu_info" { mfn, offset, rsvd };
        vcpu => VcpuSetSingleshotTimer = "struct vcpu_set_singleshot_timer" { timeout_abs_ns, flags } pad { pad };
        vcpu => VcpuSetPeriodicTimer = "struct vcpu_set_periodic_timer" { period_ns };
        vcpu => VcpuRegisterMemoryArea = "struct vcpu_register_runstate_memory_area" { addr };
        vcpu => VcpuRegisterMemoryArea = "struct vcpu_register_time_memory_area" { addr };
        memory => XenMemoryReservation = "struct xen_memory_reservation" {
            extent_start, nr_extents, extent_order, mem_flags, domid
        } pad { pad };
        memory => XenAddToPhysmap = "struct xen_add_to_physmap" { domid, size, idx, gpfn }
            split { space .. space_high => "space" };
        memory => XenAddToPhysmapBatch = "struct xen_add_to_physmap_batch" {
            domid, space, size, foreign_domid => "u.foreign_domid", idxs, gpfns, errs
        };
        memory => XenRemoveFromPhysmap = "struct xen_remove_from_physmap" { domid, gpfn } pad { pad };
        memory => XenMemoryMap = "struct xen_memory_map" { nr_entries, buffer } pad { pad };
        callback => CallbackRegister = "struct callback_register" { kind => "type", flags, address } pad { pad };
        callback => CallbackUnregister = "struct callback_unregister" { kind => "type", unused => "_unused" };
        mmu => MmuUpdate = "struct mmu_update" { ptr, val };
        mmu => MmuextOp = "struct mmuext_op" { cmd, arg1, arg2 } pad { pad };
        physdev => PhysdevSetIopl = "struct physdev_set_iopl" { iopl };
        physdev => PhysdevSetIobitmap = "struct physdev_set_iobitmap" { bitmap, nr_ports } pad { pad };
        pv => TrapInfo = "struct trap_info" { vector, flags, cs, address } pad { pad };
        pv => IretContext = "struct iret_context" { rax, r11, rcx, flags, rip, cs, rflags, rsp, ss };
        pv => CpuUserRegs = "struct cpu_user_regs" {
            r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, error_code, entry_vector, rip, cs,
            saved_upcall_mask, rflags, rsp, ss, es, ds, fs, gs, pad0 => "_pad0", pad1 => "_pad1", pad2 => "_pad2",
            pad3 => "_pad3", pad4 => "_pad4", pad5 => "_pad5", pad6 => "_pad6"
        };
        pv => VcpuGuestContext = "struct vcpu_guest_context" {
            fpu_ctxt, flags, user_regs, trap_ctxt, ldt_base, ldt_ents, gdt_frames, gdt_ents, kernel_ss, kernel_sp, ctrlreg,
            debugreg, event_callback_eip, failsafe_callback_eip, syscall_callback_eip, vm_assist, fs_base,
            gs_base_kernel, gs_base_user
        };
        event_channel => EvtchnAllocUnbound = "struct evtchn_alloc_unbound" { dom, remote_dom, port };
        event_channel => EvtchnBindInterdomain = "struct evtchn_bind_interdomain" {
            remote_dom, remote_port, local_port
        } pad { pad };
        event_channel => EvtchnBindVirq = "struct evtchn_bind_virq" { virq, vcpu, port };
        event_channel => EvtchnBindPirq = "struct evtchn_bind_pirq" { pirq, flags, port };
        event_channel => EvtchnBindIpi = "struct evtchn_bind_ipi" { vcpu, port };
        event_channel => EvtchnPort = "struct evtchn_close" { port };
        event_channel => EvtchnPort = "struct evtchn_send" { port };
        event_channel => EvtchnPort = "struct evtchn_unmask" { port };
        event_channel => EvtchnStatus = "struct evtchn_status" {
            dom, port, status, vcpu
        } split { u0 .. u1 => "u" } pad { pad };
        event_channel => EvtchnBindVcpu = "struct evtchn_bind_vcpu" { port, vcpu };
        event_channel => EvtchnReset = "struct evtchn_reset" { dom };
        event_channel => EvtchnInitControl = "struct evtchn_init_control" {
            control_gfn, offset, vcpu, link_bits, pad => "_pad"
        };
        event_channel => EvtchnExpandArray = "struct evtchn_expand_array" { array_gfn };
        event_channel => EvtchnSetPriority = "struct evtchn_set_priority" { port, priority };
        event_channel => EvtchnFifoControlBlock = "struct evtchn_fifo_control_block" {
            ready, rsvd => "_rsvd", head
        };
        grant_table => GrantEntryV1 = "struct grant_entry_v1" { flags, domid, frame };
        grant_table => GnttabMapGrantRef = "struct gnttab_map_grant_ref" {
            host_addr, flags, gref => "ref", dom, status, handle, dev_bus_addr
        };
        grant_table => GnttabUnmapGrantRef = "struct gnttab_unmap_grant_ref" {
            host_addr, dev_bus_addr, handle, status
        } pad { pad };
        grant_table => GnttabSetupTable = "struct gnttab_setup_table" {
            dom, nr_frames, status, frame_list
        } pad { pad, pad2 };
        grant_table => GnttabCopyPtr = "struct gnttab_copy_ptr" { u, domid, offset } pad { pad };
        grant_table => GnttabCopy = "struct gnttab_copy" { source, dest, len, flags, status } pad { pad };
        grant_table => GnttabQuerySize = "struct gnttab_query_size" {
            dom, nr_frames, max_nr_frames, status
        } pad { pad, pad2 };
        grant_table => GnttabSetVersion = "struct gnttab_set_version" { version };
        grant_table => GrantEntryV2 = "union grant_entry_v2" {
            flags => "hdr.flags", domid => "hdr.domid", page_off => "sub_page.page_off",
            length => "sub_page.length", frame => "full_page.frame"
        };
        grant_table => GnttabDumpTable = "struct gnttab_dump_table" { dom, status };
        grant_table => GnttabTransfer = "struct gnttab_transfer" {
            mfn, domid, gref => "ref", status
        } pad { pad, pad2 };
        grant_table => GnttabUnmapAndReplace = "struct gnttab_unmap_and_replace" {
            host_addr, new_addr, handle, status
        } pad { pad };
        grant_table => GnttabGetStatusFrames = "struct gnttab_get_status_frames" {
            nr_frames, dom, status, frame_list
        };
        grant_table => GnttabSwapGrantRef = "struct gnttab_swap_grant_ref" {
            ref_a, ref_b, status
        } pad { pad };
        grant_table => GnttabCacheFlush = "struct gnttab_cache_flush" { a, offset, length, op };
        grant_table => GnttabGetVersion = "struct gnttab_get_version" { dom, version } pad { pad };
        hvm => XenHvmParam = "struct xen_hvm_param" { domid, pad, index, value };
        hvm => XenHvmEvtchnUpcallVector = "struct xen_hvm_evtchn_upcall_vector" { vcpu, vector } pad { pad };
        hvm => XenHvmGetTime = "struct xen_hvm_get_time" { now };
        start_info => StartInfo = "struct start_info" {
            magic, nr_pages, shared_info, flags, store_mfn, store_evtchn, console_mfn => "console.domU.mfn",
            console_evtchn => "console.domU.evtchn", pt_base, nr_pt_frames, mfn_list, mod_start, mod_len, cmd_line,
            first_p2m_pfn, nr_p2m_frames
        } pad { pad0, pad1, pad2 };
        start_info => HvmStartInfo = "struct hvm_start_info" {
            magic, version, flags, nr_modules, modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr,
            memmap_entries, reserved
        };
        start_info => HvmModlistEntry = "struct hvm_modlist_entry" { paddr, size, cmdline_paddr, reserved };
        start_info => HvmMemmapTableEntry = "struct hvm_memmap_table_entry" {
            addr, size, kind => "type", reserved
        };
        io::blkif => BlkifRequestSegment = "struct blkif_request_segment" {
            gref, first_sect, last_sect
        } pad { pad };
        io::blkif => BlkifRequest = "struct blkif_request" {
            operation, nr_segments, handle, id, sector_number, seg
        } pad { pad };
        io::blkif => BlkifRequestDiscard = "struct blkif_request_discard" {
            operation, flag, handle, id, sector_number, nr_sectors
        } pad { pad };
        io::blkif => BlkifRequestIndirect = "struct blkif_request_indirect" {
            operation, indirect_op, nr_segments, id, sector_number, handle, indirect_grefs
        } pad { pad, pad2, pad3 };
        io::blkif => BlkifResponse = "struct blkif_response" { id, operation, status } pad { pad, pad2 };
        io::netif => NetifTxRequest = "struct netif_tx_request" { gref, offset, flags, id, size };
        io::netif => NetifExtraInfo = "struct netif_extra_info" { kind => "type", flags, u };
        io::netif => NetifTxResponse = "struct netif_tx_response" { id, status };
        io::netif => NetifRxRequest = "struct netif_rx_request" { id, pad, gref };
        io::netif => NetifRxResponse = "struct netif_rx_response" { id, offset, flags, status };
        io::netif => XenNetifCtrlRequest = "struct xen_netif_ctrl_request" { id, kind => "type", data };
        io::netif => XenNetifCtrlResponse = "struct xen_netif_ctrl_response" { id, kind => "type", status, data };
        io::netif => XenNetifGref = "struct xen_netif_gref" { gref => "ref", flags, status };
        io::xs_wire => XsdSockmsg = "struct xsd_sockmsg" { kind => "type", req_id, tx_id, len };
    }
}

/// Constants whose names are the same in both languages, by module; then those with a C name of their own.
/// What C says the same of when it compiles for 32-bit x86.
pub(crate) fn layouts_x86_32() -> Vec<Layout> {
    layouts! {
        io::blkif => BlkifX86_32Request = "struct blkif_request" {
            operation, nr_segments, handle, id, sector_number, seg
        };
        io::blkif => BlkifX86_32RequestDiscard = "struct blkif_request_discard" {
            operation, flag, handle, id, sector_number, nr_sectors
        };
        io::blkif => BlkifX86_32RequestIndirect = "struct blkif_request_indirect" {
            operation, indirect_op, nr_segments, id, sector_number, handle, indirect_grefs, pad2 => "pad"
        } pad { pad };
        io::blkif => BlkifX86_32Response = "struct blkif_response" { id, operation, status } pad { pad };
        io::blkif => BlkifRequestSegment = "struct blkif_request_segment" {
            gref, first_sect, last_sect
        } pad { pad };
    }
}

/// Expressions of the same for 32-bit x86: rings of either slot size.
pub(crate) fn expressions_x86_32() -> Vec<(&'static str, u64)> {
    use io::blkif::{BlkifX86_32Request, BlkifX86_32Response};
    let slots = |pages| slots::<BlkifX86_32Request, BlkifX86_32Response>(pages);
    vec![
        ("sizeof(union blkif_sring_entry)", 108),
        (
            "offsetof(struct blkif_sring, ring)",
            ring::RING_HEADER_SIZE as u64,
        ),
        ("__CONST_RING_SIZE(blkif, 4096)", slots(1)),
        ("__CONST_RING_SIZE(blkif, 8192)", slots(2)),
        ("__CONST_RING_SIZE(blkif, 65536)", slots(16)),
    ]
}

macro_rules! constants {
    ($($($module:ident)::+ { $($name:ident),* $(,)? })* @named { $($c:literal = $rust:expr),* $(,)? }) => {{
        let mut list = Vec::new();
        $({
            use $($module)::+ as m;
            list.extend([$(Constant { c: stringify!($name), value: i64::try_from(m::$name).unwrap() }),*]);
        })*
        list.extend([$(Constant { c: $c, value: i64::from($rust) }),*]);
        list
    }};
}

pub(crate) fn constants() -> Vec<Constant> {
    constants! {
        callback {
            CALLBACKTYPE_event, CALLBACKTYPE_failsafe, CALLBACKTYPE_syscall, CALLBACKTYPE_sysenter_deprecated,
            CALLBACKTYPE_nmi, CALLBACKTYPE_sysenter, CALLBACKTYPE_syscall32, CALLBACKF_mask_events,
            CALLBACKOP_register, CALLBACKOP_unregister
        }
        cpuid {
            XEN_CPUID_FIRST_LEAF, XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX,
            XEN_CPUID_MAX_NUM_LEAVES, XEN_HVM_CPUID_VCPU_ID_PRESENT, XEN_HVM_CPUID_DOMID_PRESENT,
            XEN_HVM_CPUID_UPCALL_VECTOR
        }
        elfnote {
            XEN_ELFNOTE_ENTRY, XEN_ELFNOTE_HYPERCALL_PAGE, XEN_ELFNOTE_GUEST_OS, XEN_ELFNOTE_FEATURES,
            XEN_ELFNOTE_PHYS32_ENTRY, XEN_ELFNOTE_VIRT_BASE, XEN_ELFNOTE_PADDR_OFFSET, XEN_ELFNOTE_XEN_VERSION,
            XEN_ELFNOTE_GUEST_VERSION, XEN_ELFNOTE_LOADER, XEN_ELFNOTE_PAE_MODE, XEN_ELFNOTE_BSD_SYMTAB,
            XEN_ELFNOTE_HV_START_LOW, XEN_ELFNOTE_L1_MFN_VALID, XEN_ELFNOTE_SUSPEND_CANCEL, XEN_ELFNOTE_INIT_P2M,
            XEN_ELFNOTE_MOD_START_PFN, XEN_ELFNOTE_SUPPORTED_FEATURES
        }
        event_channel {
            EVTCHNOP_bind_interdomain, EVTCHNOP_bind_virq, EVTCHNOP_bind_pirq, EVTCHNOP_close, EVTCHNOP_send,
            EVTCHNOP_status, EVTCHNOP_alloc_unbound, EVTCHNOP_bind_ipi, EVTCHNOP_bind_vcpu, EVTCHNOP_unmask,
            EVTCHNOP_reset, EVTCHNOP_init_control, EVTCHNOP_expand_array, EVTCHNOP_set_priority,
            EVTCHNSTAT_closed, EVTCHNSTAT_unbound, EVTCHNSTAT_interdomain, EVTCHNSTAT_pirq, EVTCHNSTAT_virq,
            EVTCHNSTAT_ipi, EVTCHN_2L_NR_CHANNELS, BIND_PIRQ__WILL_SHARE, EVTCHN_FIFO_PRIORITY_MAX,
            EVTCHN_FIFO_PRIORITY_DEFAULT, EVTCHN_FIFO_PRIORITY_MIN, EVTCHN_FIFO_MAX_QUEUES, EVTCHN_FIFO_PENDING,
            EVTCHN_FIFO_MASKED, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_BUSY, EVTCHN_FIFO_LINK_BITS,
            EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_NR_CHANNELS
        }
        grant_table {
            GNTTABOP_map_grant_ref, GNTTABOP_unmap_grant_ref, GNTTABOP_setup_table, GNTTABOP_dump_table,
            GNTTABOP_transfer, GNTTABOP_copy, GNTTABOP_query_size, GNTTABOP_unmap_and_replace,
            GNTTABOP_set_version, GNTTABOP_get_status_frames, GNTTABOP_get_version, GNTTABOP_swap_grant_ref,
            GNTTABOP_cache_flush, GNTTAB_NR_RESERVED_ENTRIES, GTF_invalid, GTF_permit_access,
            GTF_accept_transfer, GTF_transitive, GTF_type_mask, GTF_readonly, GTF_reading, GTF_writing,
            GTF_PWT, GTF_PCD, GTF_PAT, GTF_sub_page, GTF_transfer_committed, GTF_transfer_completed,
            GNTMAP_application_map, GNTMAP_contains_pte, GNTMAP_guest_avail_mask, GNTTAB_CACHE_CLEAN,
            GNTTAB_CACHE_INVAL, GNTTAB_CACHE_SOURCE_GREF, GNTMAP_device_map, GNTMAP_host_map, GNTMAP_readonly, GNTCOPY_source_gref,
            GNTCOPY_dest_gref, GNTST_okay, GNTST_general_error, GNTST_bad_domain, GNTST_bad_gntref,
            GNTST_bad_handle, GNTST_bad_virt_addr, GNTST_bad_dev_addr, GNTST_no_device_space,
            GNTST_permission_denied, GNTST_bad_page, GNTST_bad_copy_arg, GNTST_address_too_big, GNTST_eagain,
            GNTST_no_space
        }
        hvm {
            HVMOP_set_param, HVMOP_get_param, HVMOP_flush_tlbs, HVMOP_pagetable_dying, HVMOP_get_time,
            HVMOP_get_mem_type, HVMOP_set_evtchn_upcall_vector, HVM_PARAM_CALLBACK_IRQ, HVM_PARAM_STORE_PFN,
            HVM_PARAM_STORE_EVTCHN, HVM_PARAM_PAE_ENABLED, HVM_PARAM_IOREQ_PFN, HVM_PARAM_BUFIOREQ_PFN,
            HVM_PARAM_TIMER_MODE, HVM_PARAM_HPET_ENABLED, HVM_PARAM_DM_DOMAIN, HVM_PARAM_ACPI_S_STATE,
            HVM_PARAM_VPT_ALIGN, HVM_PARAM_CONSOLE_PFN, HVM_PARAM_CONSOLE_EVTCHN,
            HVM_PARAM_VM_GENERATION_ID_ADDR, HVM_NR_PARAMS
        }
        memory {
            XENMEM_increase_reservation, XENMEM_decrease_reservation, XENMEM_maximum_ram_page,
            XENMEM_current_reservation, XENMEM_maximum_reservation, XENMEM_populate_physmap,
            XENMEM_add_to_physmap, XENMEM_memory_map, XENMEM_machine_memory_map, XENMEM_exchange,
            XENMEM_maximum_gpfn, XENMEM_remove_from_physmap, XENMEM_add_to_physmap_batch,
            XENMAPSPACE_shared_info, XENMAPSPACE_grant_table, XENMAPSPACE_gmfn, XENMAPSPACE_gmfn_range,
            XENMAPSPACE_gmfn_foreign, XENMAPIDX_grant_table_status
        }
        mmu {
            MMU_NORMAL_PT_UPDATE, MMU_MACHPHYS_UPDATE, MMU_PT_UPDATE_PRESERVE_AD, MMU_PT_UPDATE_NO_TRANSLATE,
            MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE,
            MMUEXT_UNPIN_TABLE, MMUEXT_NEW_BASEPTR, MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_INVLPG_LOCAL,
            MMUEXT_TLB_FLUSH_MULTI, MMUEXT_INVLPG_MULTI, MMUEXT_TLB_FLUSH_ALL, MMUEXT_INVLPG_ALL,
            MMUEXT_FLUSH_CACHE, MMUEXT_SET_LDT, MMUEXT_NEW_USER_BASEPTR, MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE,
            MMUEXT_FLUSH_CACHE_GLOBAL, MMUEXT_MARK_SUPER, MMUEXT_UNMARK_SUPER, UVMF_NONE, UVMF_TLB_FLUSH,
            UVMF_INVLPG, UVMF_FLUSHTYPE_MASK, UVMF_ALL
        }
        physdev {
            PHYSDEVOP_set_iopl, PHYSDEVOP_set_iobitmap,
            PHYSDEVOP_eoi, PHYSDEVOP_irq_status_query, PHYSDEVOP_map_pirq, PHYSDEVOP_unmap_pirq,
            PHYSDEVOP_get_free_pirq
        }
        pv {
            FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_DS32, FIRST_RESERVED_GDT_PAGE,
            FIRST_RESERVED_GDT_BYTE, FIRST_RESERVED_GDT_ENTRY, SEGBASE_FS, SEGBASE_GS_USER, SEGBASE_GS_KERNEL,
            SEGBASE_GS_USER_SEL, VGCF_in_syscall, VGCF_i387_valid, VGCF_in_kernel,
            VGCF_failsafe_disables_events, VGCF_syscall_disables_events, VGCF_online, VMASST_CMD_enable,
            VMASST_CMD_disable, VMASST_TYPE_4gb_segments, VMASST_TYPE_4gb_segments_notify,
            VMASST_TYPE_writable_pagetables, VMASST_TYPE_pae_extended_cr3, VMASST_TYPE_architectural_iopl,
            VMASST_TYPE_runstate_update_flag, VMASST_TYPE_m2p_strict
        }
        sched {
            SCHEDOP_yield, SCHEDOP_block, SCHEDOP_shutdown, SCHEDOP_poll, SCHEDOP_remote_shutdown,
            SCHEDOP_shutdown_code, SCHEDOP_watchdog, SCHEDOP_pin_override, SHUTDOWN_poweroff, SHUTDOWN_reboot,
            SHUTDOWN_suspend, SHUTDOWN_crash, SHUTDOWN_watchdog, SHUTDOWN_soft_reset
        }
        start_info {
            XEN_HVM_START_MAGIC_VALUE, XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED,
            XEN_HVM_MEMMAP_TYPE_ACPI, SIF_PRIVILEGED, SIF_INITDOMAIN, SIF_MULTIBOOT_MOD, SIF_MOD_START_PFN,
            SIF_VIRT_P2M_4TOOLS, MAX_GUEST_CMDLINE
        }
        vcpu {
            VCPUOP_initialise, VCPUOP_up, VCPUOP_down, VCPUOP_is_up, VCPUOP_get_runstate_info,
            VCPUOP_register_runstate_memory_area, VCPUOP_set_periodic_timer, VCPUOP_stop_periodic_timer,
            VCPUOP_set_singleshot_timer, VCPUOP_stop_singleshot_timer, VCPUOP_register_vcpu_info,
            VCPUOP_send_nmi, VCPUOP_get_physid, VCPUOP_register_vcpu_time_memory_area, VCPU_SSHOTTMR_future,
            RUNSTATE_running, RUNSTATE_runnable, RUNSTATE_blocked, RUNSTATE_offline
        }
        version {
            XENVER_version, XENVER_extraversion, XENVER_compile_info, XENVER_capabilities, XENVER_changeset,
            XENVER_platform_parameters, XENVER_get_features, XENVER_pagesize, XENVER_guest_handle,
            XENVER_commandline, XENVER_build_id, XENFEAT_auto_translated_physmap, XENFEAT_hvm_callback_vector,
            XENFEAT_hvm_safe_pvclock, XENFEAT_hvm_pirqs, XENFEAT_memory_op_vnode_supported,
            XENFEAT_linux_rsdp_unrestricted
        }
        xen {
            __HYPERVISOR_set_trap_table, __HYPERVISOR_mmu_update, __HYPERVISOR_set_gdt,
            __HYPERVISOR_stack_switch, __HYPERVISOR_set_callbacks, __HYPERVISOR_fpu_taskswitch,
            __HYPERVISOR_platform_op, __HYPERVISOR_set_debugreg, __HYPERVISOR_get_debugreg,
            __HYPERVISOR_update_descriptor, __HYPERVISOR_update_va_mapping,
            __HYPERVISOR_update_va_mapping_otherdomain, __HYPERVISOR_iret, __HYPERVISOR_set_segment_base,
            __HYPERVISOR_nmi_op, __HYPERVISOR_callback_op,
            __HYPERVISOR_memory_op, __HYPERVISOR_multicall, __HYPERVISOR_set_timer_op,
            __HYPERVISOR_xen_version, __HYPERVISOR_console_io, __HYPERVISOR_grant_table_op,
            __HYPERVISOR_vm_assist, __HYPERVISOR_vcpu_op, __HYPERVISOR_mmuext_op, __HYPERVISOR_xsm_op,
            __HYPERVISOR_sched_op, __HYPERVISOR_event_channel_op, __HYPERVISOR_physdev_op,
            __HYPERVISOR_hvm_op, VIRQ_TIMER, VIRQ_DEBUG, VIRQ_CONSOLE, VIRQ_DOM_EXC, VIRQ_TBUF, VIRQ_DEBUGGER,
            VIRQ_XENOPROF, VIRQ_XENPMU, NR_VIRQS, CONSOLEIO_write, CONSOLEIO_read, XEN_LEGACY_MAX_VCPUS
        }
        io::blkif {
            BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BLKIF_OP_FLUSH_DISKCACHE,
            BLKIF_OP_RESERVED_1, BLKIF_OP_DISCARD, BLKIF_OP_INDIRECT, BLKIF_MAX_SEGMENTS_PER_REQUEST,
            BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST, BLKIF_DISCARD_SECURE, BLKIF_RSP_OKAY, BLKIF_RSP_ERROR,
            BLKIF_RSP_EOPNOTSUPP, VDISK_CDROM, VDISK_REMOVABLE, VDISK_READONLY
        }
        io::netif {
            XEN_NETIF_NR_SLOTS_MIN, XEN_NETIF_MAX_TX_SIZE, NETTXF_csum_blank, NETTXF_data_validated,
            NETTXF_more_data, NETTXF_extra_info, NETRXF_data_validated, NETRXF_csum_blank, NETRXF_more_data,
            NETRXF_extra_info, NETRXF_gso_prefix, XEN_NETIF_EXTRA_TYPE_NONE, XEN_NETIF_EXTRA_TYPE_GSO,
            XEN_NETIF_EXTRA_TYPE_MCAST_ADD, XEN_NETIF_EXTRA_TYPE_MCAST_DEL, XEN_NETIF_EXTRA_TYPE_HASH,
            XEN_NETIF_EXTRA_TYPE_MAX, XEN_NETIF_EXTRA_FLAG_MORE, XEN_NETIF_GSO_TYPE_NONE,
            XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6, NETIF_RSP_DROPPED, NETIF_RSP_ERROR,
            NETIF_RSP_OKAY, NETIF_RSP_NULL,
            _XEN_NETIF_CTRL_HASH_TYPE_IPV4, XEN_NETIF_CTRL_HASH_TYPE_IPV4,
            _XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP, XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP,
            _XEN_NETIF_CTRL_HASH_TYPE_IPV6, XEN_NETIF_CTRL_HASH_TYPE_IPV6,
            _XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP, XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP,
            XEN_NETIF_CTRL_HASH_ALGORITHM_NONE, XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ, XEN_NETIF_CTRL_TYPE_INVALID,
            XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS, XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS, XEN_NETIF_CTRL_TYPE_SET_HASH_KEY,
            XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE, XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE,
            XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING, XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM,
            XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE, XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING,
            XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING, XEN_NETIF_CTRL_STATUS_SUCCESS, XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED,
            XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER, XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW,
            XEN_NETIF_CTRLF_GREF_readonly
        }
        io::xs_wire {
            XENSTORE_PAYLOAD_MAX, XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX,
            XENSTORE_SERVER_FEATURE_RECONNECTION, XENSTORE_SERVER_FEATURE_ERROR, XENSTORE_CONNECTED,
            XENSTORE_RECONNECT, XENSTORE_ERROR_NONE, XENSTORE_ERROR_COMM, XENSTORE_ERROR_RINGIDX,
            XENSTORE_ERROR_PROTO
        }
        @named {
            "XEN_EPERM" = Errno::EPERM.0,
            "XEN_ENOENT" = Errno::ENOENT.0,
            "XEN_ESRCH" = Errno::ESRCH.0,
            "XEN_EIO" = Errno::EIO.0,
            "XEN_ENXIO" = Errno::ENXIO.0,
            "XEN_E2BIG" = Errno::E2BIG.0,
            "XEN_EBADF" = Errno::EBADF.0,
            "XEN_EAGAIN" = Errno::EAGAIN.0,
            "XEN_ENOMEM" = Errno::ENOMEM.0,
            "XEN_EACCES" = Errno::EACCES.0,
            "XEN_EFAULT" = Errno::EFAULT.0,
            "XEN_EBUSY" = Errno::EBUSY.0,
            "XEN_EEXIST" = Errno::EEXIST.0,
            "XEN_ENODEV" = Errno::ENODEV.0,
            "XEN_EISDIR" = Errno::EISDIR.0,
            "XEN_EINVAL" = Errno::EINVAL.0,
            "XEN_ENOSPC" = Errno::ENOSPC.0,
            "XEN_EROFS" = Errno::EROFS.0,
            "XEN_ERANGE" = Errno::ERANGE.0,
            "XEN_ENOSYS" = Errno::ENOSYS.0,
            "XEN_ENOTEMPTY" = Errno::ENOTEMPTY.0,
            "XEN_ENODATA" = Errno::ENODATA.0,
            "XEN_EOPNOTSUPP" = Errno::EOPNOTSUPP.0,
            "XEN_EISCONN" = Errno::EISCONN.0,
            "XEN_ENOTCONN" = Errno::ENOTCONN.0,
            "XS_CONTROL" = io::xs_wire::XS_CONTROL.0,
            "XS_DIRECTORY" = io::xs_wire::XS_DIRECTORY.0,
            "XS_READ" = io::xs_wire::XS_READ.0,
            "XS_GET_PERMS" = io::xs_wire::XS_GET_PERMS.0,
            "XS_WATCH" = io::xs_wire::XS_WATCH.0,
            "XS_UNWATCH" = io::xs_wire::XS_UNWATCH.0,
            "XS_TRANSACTION_START" = io::xs_wire::XS_TRANSACTION_START.0,
            "XS_TRANSACTION_END" = io::xs_wire::XS_TRANSACTION_END.0,
            "XS_INTRODUCE" = io::xs_wire::XS_INTRODUCE.0,
            "XS_RELEASE" = io::xs_wire::XS_RELEASE.0,
            "XS_GET_DOMAIN_PATH" = io::xs_wire::XS_GET_DOMAIN_PATH.0,
            "XS_WRITE" = io::xs_wire::XS_WRITE.0,
            "XS_MKDIR" = io::xs_wire::XS_MKDIR.0,
            "XS_RM" = io::xs_wire::XS_RM.0,
            "XS_SET_PERMS" = io::xs_wire::XS_SET_PERMS.0,
            "XS_WATCH_EVENT" = io::xs_wire::XS_WATCH_EVENT.0,
            "XS_ERROR" = io::xs_wire::XS_ERROR.0,
            "XS_IS_DOMAIN_INTRODUCED" = io::xs_wire::XS_IS_DOMAIN_INTRODUCED.0,
            "XS_RESUME" = io::xs_wire::XS_RESUME.0,
            "XS_SET_TARGET" = io::xs_wire::XS_SET_TARGET.0,
            "XS_RESET_WATCHES" = io::xs_wire::XS_RESET_WATCHES.0,
            "XS_DIRECTORY_PART" = io::xs_wire::XS_DIRECTORY_PART.0,
            "XenbusStateUnknown" = io::xenbus::XenbusState::UNKNOWN.0,
            "XenbusStateInitialising" = io::xenbus::XenbusState::INITIALISING.0,
            "XenbusStateInitWait" = io::xenbus::XenbusState::INIT_WAIT.0,
            "XenbusStateInitialised" = io::xenbus::XenbusState::INITIALISED.0,
            "XenbusStateConnected" = io::xenbus::XenbusState::CONNECTED.0,
            "XenbusStateClosing" = io::xenbus::XenbusState::CLOSING.0,
            "XenbusStateClosed" = io::xenbus::XenbusState::CLOSED.0,
            "XenbusStateReconfiguring" = io::xenbus::XenbusState::RECONFIGURING.0,
            "XenbusStateReconfigured" = io::xenbus::XenbusState::RECONFIGURED.0,
            "DOMID_FIRST_RESERVED" = DomId::FIRST_RESERVED.0,
            "DOMID_SELF" = DomId::SELF.0,
            "DOMID_INVALID" = DomId::INVALID.0,
            "GNTTAB_RESERVED_CONSOLE" = grant_table::GNTTAB_RESERVED_CONSOLE.0,
            "GNTTAB_RESERVED_XENSTORE" = grant_table::GNTTAB_RESERVED_XENSTORE.0,
        }
    }
}

/// Constants that older headers lack, each with a macro that came with it or after it: where that is not defined, C is not asked.
pub(crate) fn newer_constants() -> Vec<(&'static str, Constant)> {
    use io::xs_wire as xs;
    let newer = |guard, c, value: u32| {
        let value = i64::from(value);
        (guard, Constant { c, value })
    };
    let store = "XENSTORE_SERVER_FEATURE_WATCHDEPTH";
    let any = "XENSTORE_SERVER_FEATURE_DOMID_ANY";
    vec![
        newer(any, "XS_GET_FEATURE", xs::XS_GET_FEATURE.0),
        newer(any, "XS_SET_FEATURE", xs::XS_SET_FEATURE.0),
        newer(any, "XS_GET_QUOTA", xs::XS_GET_QUOTA.0),
        newer(any, "XS_SET_QUOTA", xs::XS_SET_QUOTA.0),
        newer(store, store, xs::XENSTORE_SERVER_FEATURE_WATCHDEPTH),
        newer(any, any, xs::XENSTORE_SERVER_FEATURE_DOMID_ANY),
        newer("DOMID_ANY", "DOMID_ANY", u32::from(DomId::ANY.0)),
    ]
}

fn slots<Q, S>(pages: usize) -> u64 {
    u64::from(ring::slots(
        pages * PAGE_SIZE,
        size_of::<Q>().max(size_of::<S>()),
    ))
}

/// C expressions with what they must come to: the shapes of rings, and values that the headers only imply.
pub(crate) fn expressions() -> Vec<(&'static str, u64)> {
    use io::blkif::{BlkifRequest, BlkifResponse};
    use io::netif::{
        NetifRxRequest, NetifRxResponse, NetifTxRequest, NetifTxResponse, XenNetifCtrlRequest,
        XenNetifCtrlResponse,
    };
    use io::xs_wire::{
        XENSTORE_CONNECTION_OFFSET, XENSTORE_ERROR_OFFSET, XENSTORE_SERVER_FEATURES_OFFSET,
    };
    let mut expressions = byte_rings();
    expressions.extend([
        (
            "__CONST_RING_SIZE(blkif, 4096)",
            slots::<BlkifRequest, BlkifResponse>(1),
        ),
        (
            "__CONST_RING_SIZE(blkif, 16384)",
            slots::<BlkifRequest, BlkifResponse>(4),
        ),
        (
            "__CONST_RING_SIZE(blkif, 65536)",
            slots::<BlkifRequest, BlkifResponse>(16),
        ),
        (
            "4096 / sizeof(struct blkif_request_segment)",
            io::blkif::BLKIF_SEGMENTS_PER_INDIRECT_PAGE as u64,
        ),
        (
            "__CONST_RING_SIZE(netif_tx, 4096)",
            slots::<NetifTxRequest, NetifTxResponse>(1),
        ),
        (
            "__CONST_RING_SIZE(netif_rx, 4096)",
            slots::<NetifRxRequest, NetifRxResponse>(1),
        ),
        (
            "__CONST_RING_SIZE(xen_netif_ctrl, 4096)",
            slots::<XenNetifCtrlRequest, XenNetifCtrlResponse>(1),
        ),
        ("offsetof(struct netif_extra_info, u.gso.size)", 2),
        ("offsetof(struct netif_extra_info, u.gso.type)", 4),
        ("offsetof(struct netif_extra_info, u.mcast.addr)", 2),
        ("offsetof(struct netif_extra_info, u.hash.type)", 2),
        ("offsetof(struct netif_extra_info, u.hash.algorithm)", 3),
        ("offsetof(struct netif_extra_info, u.hash.value)", 4),
        (
            "offsetof(struct blkif_sring, ring)",
            ring::RING_HEADER_SIZE as u64,
        ),
        ("offsetof(struct blkif_sring, req_prod)", 0),
        ("offsetof(struct blkif_sring, req_event)", 4),
        ("offsetof(struct blkif_sring, rsp_prod)", 8),
        ("offsetof(struct blkif_sring, rsp_event)", 12),
        (
            "4096 / sizeof(struct grant_entry_v1)",
            u64::from(grant_table::GRANT_ENTRIES_PER_FRAME_V1),
        ),
        (
            "4096 / sizeof(union grant_entry_v2)",
            u64::from(grant_table::GRANT_ENTRIES_PER_FRAME_V2),
        ),
        (
            "4096 / sizeof(grant_status_t)",
            u64::from(grant_table::GRANT_STATUS_PER_FRAME),
        ),
        (
            "offsetof(struct xenstore_domain_interface, server_features)",
            XENSTORE_SERVER_FEATURES_OFFSET as u64,
        ),
        (
            "offsetof(struct xenstore_domain_interface, connection)",
            XENSTORE_CONNECTION_OFFSET as u64,
        ),
        (
            "offsetof(struct xenstore_domain_interface, error)",
            XENSTORE_ERROR_OFFSET as u64,
        ),
    ]);
    expressions
}

/// Where C puts the bytes and indices of the four byte rings; the crate's constants are compared with the same numbers here.
fn byte_rings() -> Vec<(&'static str, u64)> {
    macro_rules! ring {
        ($rust:expr, $c:literal, $data:literal $cons:literal $prod:literal, $at:literal $size:literal $cons_at:literal $prod_at:literal) => {{
            assert_eq!(
                $rust,
                ring::ByteRing::new($at, $size, $cons_at, $prod_at),
                "{}",
                $data
            );
            [
                (concat!("offsetof(", $c, ", ", $data, ")"), $at),
                (concat!("sizeof(((", $c, " *)0)->", $data, ")"), $size),
                (concat!("offsetof(", $c, ", ", $cons, ")"), $cons_at),
                (concat!("offsetof(", $c, ", ", $prod, ")"), $prod_at),
            ]
        }};
    }
    use io::{console, xs_wire};
    [
        ring!(console::XENCONS_IN, "struct xencons_interface", "in" "in_cons" "in_prod", 0 1024 3072 3076),
        ring!(console::XENCONS_OUT, "struct xencons_interface", "out" "out_cons" "out_prod", 1024 2048 3080 3084),
        ring!(xs_wire::XENSTORE_REQ, "struct xenstore_domain_interface", "req" "req_cons" "req_prod", 0 1024 2048 2052),
        ring!(xs_wire::XENSTORE_RSP, "struct xenstore_domain_interface", "rsp" "rsp_cons" "rsp_prod", 1024 1024 2056 2060),
    ]
    .concat()
}
