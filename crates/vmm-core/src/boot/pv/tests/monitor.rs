use cantle_pv_monitor::interface::{
    BOOT_INFO, BootInfo, DIRECT_MAP, Frames, M2P_BASE, MAGIC, MONITOR_BASE, SHARED_GDT,
    VCPU_AREA_SIZE, VCPU_GUARD, vcpu_area, window,
};
use proptest::prelude::*;
use zerocopy::FromBytes;

use super::super::tables::NX;
use super::super::{MonitorError, MonitorLayout, MonitorStart, PvEntry};
use super::*;

const SHARED_INFO: u64 = 0xf_0008;
const START: MonitorStart = MonitorStart {
    flags: 1,
    xen_version: 0x4_0011,
    hypercall_port: 0xe8,
    upcall_vector: 0xe0,
    special: Frames {
        start: 0xf_0000,
        end: 0xf_0049,
    },
    shared_info: SHARED_INFO,
    entry: PvEntry {
        rip: 1,
        rsp: 2,
        rsi: 3,
        l4: 4,
    },
};

/// An image of code, constants and data.
fn image_of(segments: &[(u64, u64, u32)]) -> Vec<u8> {
    let mut sample = linux();
    sample.notes.clear();
    sample.segments = segments
        .iter()
        .map(|(paddr, size, flags)| SampleSegment {
            paddr: *paddr,
            bytes: vec![flags.to_le_bytes()[0]; 16],
            size: *size,
            flags: *flags,
        })
        .collect();
    let mut file = sample.build();
    // The entry, which samples have at 0.
    file[0x18..0x20].copy_from_slice(&MONITOR_BASE.to_le_bytes());
    file
}

fn sample_image() -> Vec<u8> {
    image_of(&[
        (MONITOR_BASE, 0x2800, 5),
        (MONITOR_BASE + 0x3000, 0x1000, 4),
        (MONITOR_BASE + 0x4000, 0x2345, 6),
    ])
}

struct Built {
    memory: GuestMemoryMmap<()>,
    layout: MonitorLayout,
    info: BootInfo,
}

fn build(file: &[u8], vcpus: u32, pages: u64) -> Built {
    let layout = MonitorLayout::plan(file, vcpus, pages, SHARED_INFO).unwrap();
    let memory = memory(layout.guest());
    layout.write(&memory, file, &START).unwrap();
    let (_, top) = layout.begin();
    let bytes = peek::<{ size_of::<BootInfo>() }>(&memory, top >> 12, BOOT_INFO);
    let info = BootInfo::read_from_bytes(&bytes).unwrap();
    Built {
        memory,
        layout,
        info,
    }
}

impl Built {
    fn at(&self, address: u64) -> Option<Found> {
        walk(&self.memory, self.info.monitor_l4, address)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_monitor_finds_what_it_is_promised(vcpus in 1_u32..=128, pages in 0x800_u64..0x1_0000) {
        let built = build(&sample_image(), vcpus, pages);
        let info = &built.info;
        prop_assert_eq!((info.magic, info.vcpus, info.flags), (MAGIC, vcpus, 1));
        prop_assert_eq!((info.start_rip, info.start_l4, info.shared_info), (1, 4, SHARED_INFO));
        let guest = built.layout.guest();
        prop_assert_eq!(info.ram, guest.pieces());
        prop_assert_eq!(info.max_mfn, guest.end());
        prop_assert_eq!(guest.mfn(0), Some(info.first_guest_mfn));
        prop_assert_eq!(built.layout.begin(), (MONITOR_BASE, info.monitor_l4 << 12));

        // All of memory, and shared info, in the direct map.
        for mfn in (0..info.max_mfn).step_by(97).chain([info.max_mfn - 1, SHARED_INFO]) {
            let found = built.at(DIRECT_MAP + (mfn << 12) + 5).unwrap();
            prop_assert_eq!(found.at, (mfn << 12) + 5);
            prop_assert!(found.writable && !found.user && found.entry & NX != 0);
            prop_assert_eq!(found.large, mfn != SHARED_INFO);
        }
        // The machine-to-physical table: the guest's pages, and nothing for the monitor's. The guest may not write it.
        for mfn in 0..info.max_mfn {
            let address = M2P_BASE + mfn * 8;
            let found = built.at(address).unwrap();
            prop_assert!(!found.writable && !found.user && found.entry & NX != 0);
            prop_assert!(found.at >> 12 < info.first_guest_mfn);
            let pfn = u64::from_le_bytes(peek::<8>(&built.memory, info.monitor_l4, address));
            if mfn < info.first_guest_mfn {
                prop_assert_eq!(pfn, u64::MAX);
            } else {
                prop_assert_eq!(guest.mfn(pfn), Some(mfn));
            }
        }
        // Areas: all pages but the guard, each with a frame of its own, before the guest's.
        let mut frames = std::collections::HashSet::new();
        for vcpu in 0..vcpus {
            for page in 0..VCPU_AREA_SIZE / 4096 {
                let found = built.at(vcpu_area(vcpu) + page * 4096);
                if page == VCPU_GUARD / 4096 {
                    prop_assert_eq!(found, None);
                    continue;
                }
                let found = found.unwrap();
                prop_assert!(found.writable && !found.user && found.entry & NX != 0);
                prop_assert!(found.at >> 12 < info.first_guest_mfn && frames.insert(found.at));
                prop_assert_eq!(built.layout.area_page(vcpu, page), Some(found.at));
            }
        }
        prop_assert_eq!(built.at(vcpu_area(vcpus)), None);
        // Windows: the shared page, and nothing else yet. Their tables are where they are said to be.
        let shared = built.at(SHARED_GDT).unwrap();
        for vcpu in 0..vcpus {
            for page in 0..32 {
                let found = built.at(window(vcpu) + page * 4096);
                let there = page == 14;
                prop_assert_eq!(found.map(|found| found.at), there.then_some(shared.at));
                let table = info.window_tables + u64::from(vcpu / 16);
                let slot = (table << 12) + (u64::from(vcpu % 16) * 32 + page) * 8;
                let entry: u64 = built.memory.read_obj(GuestAddress(slot)).unwrap();
                prop_assert_eq!(entry & P, u64::from(there));
            }
        }
        prop_assert!(built.layout.memory().0 <= u64::from(vcpus) * (28 << 10) + (192 << 10));
    }
}

#[test]
fn nothing_is_both_code_and_writable() {
    let built = build(&sample_image(), 2, 0x2000);
    for (address, byte, writable, code) in [
        (MONITOR_BASE, 5, false, true),
        (MONITOR_BASE + 0x2000, 0, false, true),
        (MONITOR_BASE + 0x3000, 4, false, false),
        (MONITOR_BASE + 0x4000, 6, true, false),
        (MONITOR_BASE + 0x6000, 0, true, false),
    ] {
        let found = built.at(address).unwrap();
        assert_eq!((found.writable, found.entry & NX == 0), (writable, code));
        assert_eq!(
            peek::<1>(&built.memory, built.info.monitor_l4, address),
            [byte]
        );
        assert!(!found.user);
    }
    assert_eq!(built.at(MONITOR_BASE + 0x7000), None);
    let constant = built.at(BOOT_INFO).unwrap();
    assert!(!constant.writable && constant.entry & NX != 0);
}

#[test]
fn the_real_monitor_can_be_loaded() {
    let built = build(cantle_pv_image::MONITOR, 1, 512 << 8);
    let (entry, _) = built.layout.begin();
    let found = built.at(entry).unwrap();
    assert!(!found.writable && found.entry & NX == 0);
    let (own, m2p) = built.layout.memory();
    assert!(own < 1 << 20, "{own} bytes");
    assert!(m2p < (1 << 20) + (1 << 14), "{m2p} bytes");
}

#[test]
fn memory_above_the_hole_is_in_both_tables() {
    // As much as the test's own machine need not have: pages are taken as they are touched.
    let pages = 4 << 18;
    let layout = MonitorLayout::plan(&sample_image(), 1, pages, SHARED_INFO).unwrap();
    let [low, high] = layout.guest().pieces();
    assert_eq!(low.end, 0xc_0000);
    assert_eq!(
        (high.start, high.end),
        (0x10_0000, 0x10_0000 + pages - (low.end - low.start))
    );
    let memory = memory(layout.guest());
    layout.write(&memory, &sample_image(), &START).unwrap();
    let top = layout.begin().1 >> 12;
    let pfn = |mfn: u64| u64::from_le_bytes(peek::<8>(&memory, top, M2P_BASE + mfn * 8));
    assert_eq!(pfn(0xb_ffff), low.end - low.start - 1);
    assert_eq!(pfn(0x10_0000), low.end - low.start);
    assert_eq!((pfn(0xc_0000), pfn(0xf_ffff)), (u64::MAX, u64::MAX));
    assert_eq!(pfn(high.end - 1), pages - 1);
    let shared = walk(&memory, top, DIRECT_MAP + (SHARED_INFO << 12)).unwrap();
    assert_eq!(shared.at, SHARED_INFO << 12);
}

#[test]
fn an_image_that_cannot_be_mapped_is_refused() {
    let refused = |file: &[u8]| {
        matches!(
            MonitorLayout::plan(file, 1, 0x1000, SHARED_INFO),
            Err(MonitorError::Image { .. })
        )
    };
    let base = MONITOR_BASE;
    assert!(!refused(&sample_image()));
    assert!(
        refused(&image_of(&[(base, 0x1000, 7)])),
        "code and writable"
    );
    assert!(refused(&image_of(&[(base, 0x10_1000, 5)])), "too large");
    assert!(refused(&image_of(&[(base - 0x1000, 0x2000, 5)])), "before");
    assert!(
        refused(&image_of(&[(base, 0x100, 5), (base + 0x200, 0x100, 6)])),
        "one page"
    );
    assert!(
        refused(&image_of(&[(base, 0x1100, 5), (base + 0x1200, 0x100, 6)])),
        "one page"
    );
    assert!(refused(&image_of(&[(base, 0x1000, 4)])), "entry in data");
    assert!(matches!(
        MonitorLayout::plan(&sample_image(), 129, 0x1000, SHARED_INFO),
        Err(MonitorError::Limit { .. })
    ));
    assert!(matches!(
        MonitorLayout::plan(&sample_image(), 1, 1 << 27, SHARED_INFO),
        Err(MonitorError::Limit { .. })
    ));
}
