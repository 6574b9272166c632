use cantle_abi::start_info::{SIF_MOD_START_PFN, StartInfo};
use proptest::prelude::*;
use zerocopy::FromBytes;

use super::super::{PvBoot, PvEntry, PvFrames, PvRings};
use super::*;
use crate::boot::Initrd;

const RINGS: PvRings = PvRings {
    shared_info: 0xf_0008,
    store_port: 1,
    console_port: 2,
};
const STUBS: [u8; 4096] = [0x5b; 4096];

struct Built {
    memory: GuestMemoryMmap<()>,
    frames: PvFrames,
    layout: super::super::Layout,
    entry: PvEntry,
    info: StartInfo,
}

/// Builds a guest, and finds its start info as its first instruction would.
fn build(sample: &SampleElf, initrd: &[u8], pages: u64, first: u64) -> Built {
    let image = image(sample);
    let initrd = (!initrd.is_empty()).then_some(Initrd::Bytes(initrd));
    let boot = PvBoot::plan(&image, initrd, "console=hvc0", pages).unwrap();
    let layout = boot.layout().clone();
    let frames = PvFrames::new(first, pages);
    let memory = memory(&frames);
    let entry = boot.load(&memory, &frames, &RINGS, &STUBS).unwrap();
    let bytes = peek::<1168>(&memory, entry.l4, entry.rsi);
    let info = StartInfo::read_from_bytes(&bytes).unwrap();
    Built {
        memory,
        frames,
        layout,
        entry,
        info,
    }
}

impl Built {
    fn at(&self, address: u64) -> Option<Found> {
        walk(&self.memory, self.entry.l4, address)
    }
}

#[test]
fn linux_finds_what_it_is_promised() {
    let initrd: Vec<u8> = (0..0x2345).map(|n: u32| n.to_le_bytes()[0]).collect();
    let built = build(&linux(), &initrd, 0x8000, 0x400);
    let info = &built.info;
    assert_eq!(&info.magic[..15], b"xen-3.0-x86_64\0");
    assert_eq!(&info.cmd_line[..13], b"console=hvc0\0");
    assert_eq!((info.nr_pages, info.shared_info), (0x8000, 0xf000_8000));
    assert_eq!((info.store_evtchn, info.console_evtchn), (1, 2));
    assert_eq!(built.entry.rip, VIRT_BASE + 0x100_0010);
    assert_eq!(
        peek::<2>(&built.memory, built.entry.l4, built.entry.rip),
        [0xc3; 2]
    );
    let data = VIRT_BASE + 0x100_3000;
    assert_eq!(
        peek::<2>(&built.memory, built.entry.l4, data + 99),
        [0xda, 0]
    );
    // The initial RAM disk is told by its page, and is mapped nowhere.
    assert_ne!(info.flags & SIF_MOD_START_PFN, 0);
    assert_eq!(info.mod_len, 0x2345);
    let mut bytes = vec![0; initrd.len()];
    let mfn = built.frames.mfn(info.mod_start).unwrap();
    built
        .memory
        .read_slice(&mut bytes, GuestAddress(mfn << 12))
        .unwrap();
    assert_eq!(bytes, initrd);
    assert_eq!(built.at(VIRT_BASE + info.mod_start * 4096), None);
    // The P2M and its tables are consecutive.
    assert_eq!(info.mfn_list, INIT_P2M);
    assert_eq!(info.nr_p2m_frames, 0x8000 * 8 / 4096 + 3);
}

#[test]
fn other_kernels_have_everything_in_one_region() {
    let built = build(&plain(), &[7; 5000], 0x4000, 0x200);
    let info = &built.info;
    assert_eq!(info.flags & SIF_MOD_START_PFN, 0);
    assert_eq!(
        peek::<3>(&built.memory, built.entry.l4, info.mod_start),
        [7; 3]
    );
    assert_eq!((info.first_p2m_pfn, info.nr_p2m_frames), (0, 0));
    let page = VIRT_BASE + 0x100_1000;
    assert_eq!(peek::<4>(&built.memory, built.entry.l4, page), [0x5b; 4]);
    let kernel_end = VIRT_BASE + 0x100_b000;
    assert!(kernel_end <= info.mod_start && info.mod_start + 5000 <= info.mfn_list);
    assert!(info.mfn_list < built.entry.rsi && built.entry.rsi < info.pt_base);
    assert!(info.pt_base < built.entry.rsp);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// For any size of memory and initrd: addresses lead to the right frames, tables are read-only and nothing is for user mode.
    #[test]
    fn every_promised_address_maps_to_the_right_frame(
        pages in 0x1800_u64..0x9000,
        first in 1_u64..0x800,
        initrd in 0_usize..300_000,
        old in any::<bool>(),
    ) {
        let sample = if old { plain() } else { linux() };
        let built = build(&sample, &vec![9; initrd], pages, first);
        let (layout, info) = (&built.layout, &built.info);
        let mapped = layout.mapped_end;
        prop_assert_eq!((VIRT_BASE + mapped * 4096) % (4 << 20), 0);
        prop_assert!(mapped <= pages);
        prop_assert!(VIRT_BASE + mapped * 4096 - built.entry.rsp >= 512 << 10);
        let tables = (info.pt_base - VIRT_BASE) >> 12;
        let tables = tables..tables + info.nr_pt_frames;
        for pfn in 0..mapped {
            let found = built.at(VIRT_BASE + pfn * 4096).unwrap();
            prop_assert_eq!(Some(found.at >> 12), built.frames.mfn(pfn));
            prop_assert!(!found.user && !found.large);
            prop_assert_eq!(found.writable, !tables.contains(&pfn), "pfn {:#x}", pfn);
        }
        prop_assert_eq!(built.at(VIRT_BASE + mapped * 4096), None);
        // Every entry of the P2M, and no more than there are pages.
        for pfn in 0..pages {
            let entry = peek::<8>(&built.memory, built.entry.l4, info.mfn_list + pfn * 8);
            prop_assert_eq!(Some(u64::from_le_bytes(entry)), built.frames.mfn(pfn));
        }
        prop_assert_eq!(Some(built.entry.l4), built.frames.mfn(tables.start));
        // No page has two uses.
        let one = |pfn: u64| pfn..pfn + 1;
        let mut uses = vec![
            layout.kernel.clone(), layout.initrd.clone(), layout.p2m.clone(), layout.p2m_tables.clone(),
            one(layout.start_info), one(layout.store), one(layout.console), layout.tables.clone(), one(layout.stack),
        ];
        uses.retain(|range| !range.is_empty());
        uses.sort_by_key(|range| range.start);
        for pair in uses.windows(2) {
            prop_assert!(pair[0].end <= pair[1].start, "{:?}", uses);
        }
        prop_assert!(uses.last().unwrap().end <= pages);
    }
}

#[test]
fn memory_on_both_sides_of_the_hole_is_one_to_the_guest() {
    // The kernel's region ends below the hole, the initial RAM disk crosses it.
    let hole = 0xc_0000;
    let first = hole - 0x2000;
    let initrd = vec![3; 60 << 20];
    let built = build(&linux(), &initrd, 0x8000, first);
    let last = built.info.mod_start + (60 << 8) - 1;
    assert!(built.info.mod_start < 0x2000 && last > 0x2000);
    assert_eq!(built.frames.mfn(0x2000), Some(0x10_0000));
    for pfn in [built.info.mod_start, 0x1fff, 0x2000, last] {
        let at = GuestAddress(built.frames.mfn(pfn).unwrap() << 12);
        assert_eq!(built.memory.read_obj::<u8>(at).unwrap(), 3);
    }
}

#[test]
fn kernels_from_before_the_notes_are_started_too() {
    let mut old = plain();
    old.notes.clear();
    old.segments[0].paddr += VIRT_BASE;
    old.segments[1].paddr += VIRT_BASE;
    let text = format!(
        "GUEST_OS=linux,XEN_VER=xen-3.0,VIRT_BASE={VIRT_BASE:#x},VIRT_ENTRY={:#x},HYPERCALL_PAGE=0x1001,LOADER=generic",
        VIRT_BASE + 0x100_0010
    );
    old.xen_guest = Some(text.into_bytes());
    let built = build(&old, &[], 0x4000, 0x200);
    assert_eq!(built.entry.rip, VIRT_BASE + 0x100_0010);
    assert_eq!(
        peek::<2>(&built.memory, built.entry.l4, built.entry.rip),
        [0xc3; 2]
    );
    let page = VIRT_BASE + 0x100_1000;
    assert_eq!(peek::<4>(&built.memory, built.entry.l4, page), [0x5b; 4]);
    assert_eq!(built.info.mod_start, 0);
}

/// As `grub-mkimage -O x86_64-xen` makes them: everything at 0, both segments code and writable.
#[test]
fn grub_is_a_kernel() {
    let mut grub = plain();
    grub.segments[0].paddr = 0;
    grub.segments[1].paddr = 0x40_0000;
    grub.notes = [
        (6, b"GRUB\0".to_vec()),
        (8, b"generic\0".to_vec()),
        (5, b"xen-3.0\0".to_vec()),
    ]
    .into_iter()
    .chain([(1, vec![0; 8]), (3, vec![0; 8])])
    .map(|(kind, value)| (b"Xen\0".to_vec(), kind, value))
    .collect();
    let built = build(&grub, &[], 0x4000, 0x200);
    assert_eq!((built.entry.rip, built.layout.address(0)), (0, 0));
    assert_eq!(peek::<2>(&built.memory, built.entry.l4, 0), [0xc3; 2]);
}
