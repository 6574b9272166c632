use cantle_pv_monitor::interface::{VCPU_AREA_SIZE, VCPU_GUARD};

use super::*;
use crate::test_utils::Harness;

#[test]
fn kvm_what_a_guest_says_of_its_p2m_is_found() {
    let Some(h) = Harness::pv() else { return };
    let pv = h.domain().pv.as_ref().unwrap();
    let said = ArchSharedInfo {
        max_pfn: 4096,
        pfn_to_mfn_frame_list_list: 7,
        nmi_reason: 0,
        p2m_cr3: 0x1234,
        p2m_vaddr: 0x80_0000_0000,
        p2m_generation: 2,
    };
    let page = HeapPage::SHARED_INFO.pv_frame().0 << PAGE_SHIFT;
    h.put(page + 3088, &said);
    assert_eq!(pv.p2m(&h.domain().ram), Ok(said));
}

#[test]
fn kvm_areas_are_where_the_monitor_has_them() {
    let Some(h) = Harness::pv() else { return };
    let pv = h.domain().pv.as_ref().unwrap();
    let first = pv.area_page(VcpuId(0), 0).unwrap();
    h.put(first, &0x5a_u8);
    for (vcpu, page) in [(0, VCPU_GUARD / 4096), (0, VCPU_AREA_SIZE / 4096), (4, 0)] {
        assert_eq!(pv.area_page(VcpuId(vcpu), page), None);
    }
    assert!(pv.frames().mfn(0).unwrap() << PAGE_SHIFT > pv.area_page(VcpuId(3), 7).unwrap());
}

#[test]
fn kvm_vcpus_begin_with_their_events_masked() {
    let Some(h) = Harness::pv() else { return };
    for vcpu in 0..4 {
        mask_events(&h.domain().ram, vcpu).unwrap();
    }
    let info = |vcpu: u64| {
        let page = HeapPage::SHARED_INFO.pv_frame().0 << PAGE_SHIFT;
        h.get::<[u8; 2]>(page + vcpu * 64)
    };
    assert_eq!([0, 3, 4].map(info), [[0, 1], [0, 1], [0, 0]]);
    // Those that have their info elsewhere say it there.
    assert!(mask_events(&h.domain().ram, 100).is_ok());
}

#[test]
fn linux_has_one_address_space_and_others_have_not() {
    let kernel = |guest_os: &str| PvKernel {
        entry: 0,
        virt_base: 0,
        paddr_offset: 0,
        hypercall_page: None,
        init_p2m: None,
        unmapped_initrd: false,
        guest_os: guest_os.to_owned(),
    };
    let amd = [kvm_cpuid_entry2 {
        ebx: u32::from_le_bytes(*b"Auth"),
        ..Default::default()
    }];
    assert_eq!(flags(&kernel("linux"), &amd), FLAG_ONE_ADDRESS_SPACE);
    assert_eq!(flags(&kernel("GRUB"), &amd), 0);
}
