use cantle_abi::elfnote::{
    XEN_ELFNOTE_FEATURES, XEN_ELFNOTE_HV_START_LOW, XEN_ELFNOTE_PADDR_OFFSET,
};
use proptest::prelude::*;

use super::super::{PvBoot, PvError};
use super::*;
use crate::boot::{BootError, Initrd};

fn plan(sample: &SampleElf, pages: u64) -> Result<(), BootError> {
    PvBoot::plan(&image(sample), None, "", pages).map(drop)
}

fn with(kind: u32, value: &[u8]) -> SampleElf {
    let mut sample = linux();
    sample.notes.retain(|(_, k, _)| *k != kind);
    sample.notes.push((b"Xen\0".to_vec(), kind, value.to_vec()));
    sample
}

fn number(kind: u32, value: u64) -> SampleElf {
    with(kind, &value.to_le_bytes())
}

#[test]
fn what_is_no_pv_kernel_is_named() {
    let refusal = |sample: &SampleElf| match plan(sample, 0x8000) {
        Err(BootError::Pv(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(&SampleElf::pvh(&[0xf4])), PvError::NotPv);
    let mut narrow = linux();
    narrow.wide = false;
    narrow.machine = 3;
    assert_eq!(refusal(&narrow), PvError::Narrow);
    for feature in ["!auto_translated_physmap", "a|!no_such_feature"] {
        let sample = with(XEN_ELFNOTE_FEATURES, feature.as_bytes());
        assert!(matches!(
            refusal(&sample),
            PvError::Text {
                note: "FEATURES",
                ..
            }
        ));
    }
    let fine = with(
        XEN_ELFNOTE_FEATURES,
        b"!writable_page_tables|no_such_feature",
    );
    assert!(plan(&fine, 0x8000).is_ok());
}

#[test]
fn what_a_note_asks_for_and_cannot_have_is_named() {
    let note = |sample: SampleElf| match plan(&sample, 0x8000) {
        Err(BootError::Pv(PvError::Note { note, .. })) => note,
        other => panic!("{other:?}"),
    };
    assert_eq!(note(number(XEN_ELFNOTE_ENTRY, VIRT_BASE)), "ENTRY");
    assert_eq!(note(number(XEN_ELFNOTE_VIRT_BASE, 0x123)), "VIRT_BASE");
    assert_eq!(
        note(number(XEN_ELFNOTE_HYPERCALL_PAGE, VIRT_BASE)),
        "HYPERCALL_PAGE"
    );
    assert_eq!(note(number(XEN_ELFNOTE_PADDR_OFFSET, 1 << 40)), "ENTRY");
    assert_eq!(
        note(number(XEN_ELFNOTE_HV_START_LOW, u64::MAX)),
        "HV_START_LOW"
    );
    assert_eq!(note(with(XEN_ELFNOTE_VIRT_BASE, &[1, 2, 3])), "VIRT_BASE");
}

#[test]
fn what_is_the_monitors_is_no_place_for_a_guest() {
    for base in [
        0xffff_8000_0000_0000,
        0xffff_87ff_ff00_0000,
        0x7fff_ffff_0000,
    ] {
        let mut sample = number(XEN_ELFNOTE_VIRT_BASE, base);
        sample
            .notes
            .retain(|(_, kind, _)| *kind != XEN_ELFNOTE_ENTRY);
        let entry = base + 0x100_0000;
        sample.notes.push((
            b"Xen\0".to_vec(),
            XEN_ELFNOTE_ENTRY,
            entry.to_le_bytes().to_vec(),
        ));
        assert!(
            matches!(
                plan(&sample, 0x8000),
                Err(BootError::Pv(PvError::Address { .. }))
            ),
            "{base:#x}"
        );
    }
    for p2m in [
        0xffff_8000_0000_0000,
        0x8000_0000_0000,
        VIRT_BASE - (1 << 30),
        !0xfff,
    ] {
        let sample = number(XEN_ELFNOTE_INIT_P2M, p2m);
        assert!(
            matches!(
                plan(&sample, 0x8000),
                Err(BootError::Pv(PvError::Address { what: "P2M", .. }))
            ),
            "{p2m:#x}"
        );
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let what = |result: Result<(), BootError>| match result {
        Err(BootError::Pv(PvError::Memory { what, .. })) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(what(plan(&linux(), 0x1000)), "kernel");
    assert_eq!(what(plan(&linux(), 0x1001)), "kernel");
    assert!(what(plan(&linux(), 0x1200)).starts_with("region"));
    let image = image(&linux());
    let initrd = vec![0; 0x1900 << 12];
    let planned = PvBoot::plan(&image, Some(Initrd::Bytes(&initrd)), "", 0x2000);
    assert_eq!(what(planned.map(drop)), "initrd");
    let long = "x".repeat(1024);
    assert!(matches!(
        PvBoot::plan(&image, None, &long, 0x8000),
        Err(BootError::CommandLine { limit: 1023, .. })
    ));
}

proptest! {
    /// Whatever the notes say: it is refused, or planned within the guest's memory.
    #[test]
    fn any_numbers_never_panic(
        base in any::<u64>(), entry in any::<u64>(), p2m in any::<u64>(), offset in any::<u64>(), paddr in any::<u64>(),
        shift in 0_u32..64, pages in 0_u64..1 << 20,
    ) {
        let mut sample = linux();
        let base = base << (shift % 40);
        sample.segments.truncate(1);
        sample.segments[0].paddr = (paddr >> shift) & !0xfff;
        let offset = if shift % 2 == 0 { 0 } else { offset >> shift };
        for (kind, value) in [
            (XEN_ELFNOTE_VIRT_BASE, base),
            (XEN_ELFNOTE_ENTRY, if shift % 3 == 0 { entry } else {
                base.wrapping_add((paddr >> shift) & !0xfff).wrapping_sub(offset)
            }),
            (XEN_ELFNOTE_INIT_P2M, p2m << (shift % 50)),
            (XEN_ELFNOTE_PADDR_OFFSET, offset),
        ] {
            sample.notes.retain(|(_, k, _)| *k != kind);
            sample.notes.push((b"Xen\0".to_vec(), kind, value.to_le_bytes().to_vec()));
        }
        let Ok(image) = KernelImage::parse(sample.build()) else { return Ok(()) };
        if let Ok(boot) = PvBoot::plan(&image, None, "", pages) {
            let layout = boot.layout();
            prop_assert!(layout.mapped_end <= pages && layout.p2m_tables.end <= pages);
        }
    }
}
