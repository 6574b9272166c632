use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use cantle_abi::ring::HeapPages;
use cantle_abi::xen::{SharedInfo, VcpuInfo};
use cantle_abi::{PAGE_SIZE, Port, VcpuId};

use super::TwoLevel;
use crate::page::SharedPage;
use crate::test_utils::Recorder;
use crate::vcpus::{Info, Vcpus};
use crate::{EvtchnError, VcpuInfoError};

const VCPU: VcpuId = VcpuId(1);

/// The interface with its vCPUs.
struct Both {
    abi: TwoLevel,
    vcpus: Vcpus,
}

impl Both {
    fn set_pending(&self, port: Port, vcpu: VcpuId) {
        self.abi.set_pending(port, vcpu, &self.vcpus);
    }
    fn unmask(&self, port: Port, vcpu: VcpuId) {
        self.abi.unmask(port, vcpu, &self.vcpus);
    }
    fn is_pending(&self, port: Port) -> bool {
        self.abi.is_pending(port)
    }
    fn upcall_pending(&self, vcpu: VcpuId) -> bool {
        self.vcpus.upcall_pending(vcpu)
    }
}

fn two_level(vcpus: u32) -> (Both, Arc<SharedPage>, Arc<Recorder>) {
    let page = Arc::new(SharedPage::new(Arc::new(HeapPages::new(1))));
    let upcalls = Arc::new(Recorder::default());
    let both = Both {
        abi: TwoLevel::new(page.clone()),
        vcpus: Vcpus::new(vcpus, page.clone(), upcalls.clone()).unwrap(),
    };
    (both, page, upcalls)
}

#[test]
fn first_event_goes_all_the_way_up_and_the_next_stop_where_they_meet_it() {
    let (abi, page, upcalls) = two_level(2);
    abi.set_pending(Port(130), VCPU);
    assert_eq!(upcalls.take(), [VCPU]);
    let info = Info::at(&page, 64).unwrap();
    assert_eq!(info.pending_sel.load(SeqCst), 1 << 2);
    assert_eq!(info.upcall_pending.load(SeqCst), 1);
    let word = page
        .u64(offset_of!(SharedInfo, evtchn_pending) + 16)
        .unwrap();
    assert_eq!(word.load(SeqCst), 1 << 2);
    assert!(abi.is_pending(Port(130)) && abi.upcall_pending(VCPU));
    assert!(!abi.upcall_pending(VcpuId(0)));

    abi.set_pending(Port(130), VCPU);
    abi.set_pending(Port(131), VCPU);
    abi.set_pending(Port(1), VCPU);
    assert_eq!(upcalls.take(), [], "the vCPU knows already");
    assert_eq!(info.pending_sel.load(SeqCst), 1 << 2 | 1);

    info.upcall_pending.store(0, SeqCst);
    abi.set_pending(Port(132), VCPU);
    assert_eq!(upcalls.take(), [], "its word is selected already");
    abi.set_pending(Port(64), VCPU);
    assert_eq!(upcalls.take(), [VCPU]);
}

#[test]
fn masked_event_waits_and_unmask_delivers_it_once() {
    let (abi, page, upcalls) = two_level(2);
    let mask = page.u64(offset_of!(SharedInfo, evtchn_mask)).unwrap();
    mask.store(1 << 5, SeqCst);
    abi.set_pending(Port(5), VCPU);
    assert!(abi.is_pending(Port(5)) && !abi.upcall_pending(VCPU));
    abi.unmask(Port(5), VCPU);
    assert_eq!((mask.load(SeqCst), upcalls.take()), (0, vec![VCPU]));
    let info = Info::at(&page, 64).unwrap();
    info.upcall_pending.store(0, SeqCst);
    info.pending_sel.store(0, SeqCst);
    abi.unmask(Port(5), VCPU);
    assert!(!abi.upcall_pending(VCPU), "it was not masked");
}

#[test]
fn vcpu_info_moves_once_with_everything_pending() {
    let (abi, page, upcalls) = two_level(2);
    let old = Info::at(&page, 64).unwrap();
    old.upcall_mask.store(1, SeqCst);
    let memory = Arc::new(HeapPages::new(1));
    let new_page = SharedPage::new(memory.clone());
    abi.vcpus.place_info(VCPU, memory.clone(), 128).unwrap();
    let new = Info::at(&new_page, 128).unwrap();
    assert_eq!(new.upcall_mask.load(SeqCst), 1);
    assert_eq!(new.pending_sel.load(SeqCst), u64::MAX);
    assert_eq!(upcalls.take(), [VCPU]);

    new.upcall_pending.store(0, SeqCst);
    new.pending_sel.store(0, SeqCst);
    abi.set_pending(Port(70), VCPU);
    assert_eq!(new.pending_sel.load(SeqCst), 2);
    assert_eq!(old.pending_sel.load(SeqCst), 0, "the old place is quiet");
    assert_eq!(
        abi.vcpus.place_info(VCPU, memory, 256),
        Err(VcpuInfoError::Placed(VCPU))
    );
}

#[test]
fn vcpu_info_stays_within_a_page_and_aligned() {
    let (abi, _page, _) = two_level(2);
    let memory = Arc::new(HeapPages::new(2));
    let size = size_of::<VcpuInfo>();
    for offset in [
        4,
        PAGE_SIZE - size + 8,
        PAGE_SIZE - 8,
        2 * PAGE_SIZE - size + 8,
        2 * PAGE_SIZE,
        usize::MAX - 7,
    ] {
        assert_eq!(
            abi.vcpus.place_info(VCPU, memory.clone(), offset),
            Err(VcpuInfoError::BadPlace(offset))
        );
    }
    assert_eq!(
        abi.vcpus.place_info(VcpuId(2), memory.clone(), 0),
        Err(VcpuInfoError::NoVcpu(VcpuId(2)))
    );
    abi.vcpus
        .place_info(VCPU, memory, PAGE_SIZE - size)
        .unwrap();
}

#[test]
fn vcpu_beyond_shared_info_hears_of_everything_when_it_has_a_place() {
    let (abi, _page, upcalls) = two_level(40);
    let vcpu = VcpuId(35);
    abi.set_pending(Port(9), vcpu);
    assert!(abi.is_pending(Port(9)) && upcalls.take().is_empty());
    abi.vcpus
        .place_info(vcpu, Arc::new(HeapPages::new(1)), 0)
        .unwrap();
    assert!(abi.upcall_pending(vcpu));
    assert_eq!(upcalls.take(), [vcpu]);
}

#[test]
fn pollers_are_woken_by_masked_events_too_and_only_while_they_poll() {
    let (abi, page, upcalls) = two_level(1);
    let mask = page.u64(offset_of!(SharedInfo, evtchn_mask)).unwrap();
    mask.store(u64::MAX, SeqCst);
    abi.set_pending(Port(1), VcpuId(0));
    abi.vcpus.poll_begin();
    abi.set_pending(Port(1), VcpuId(0));
    assert_eq!(upcalls.poll_wakes(), 0, "it was pending already");
    abi.set_pending(Port(2), VcpuId(0));
    assert_eq!(upcalls.poll_wakes(), 1);
    abi.vcpus.poll_end();
    abi.set_pending(Port(3), VcpuId(0));
    assert_eq!(upcalls.poll_wakes(), 1);
}

#[test]
fn numbers_beyond_the_interface_touch_nothing() {
    let (abi, page, upcalls) = two_level(1);
    for port in [4096, 4097, u32::MAX] {
        abi.set_pending(Port(port), VcpuId(0));
        abi.unmask(Port(port), VcpuId(0));
        assert!(!abi.abi.take_pending(Port(port)));
        assert!(!abi.is_pending(Port(port)));
    }
    assert!(upcalls.take().is_empty());
    for offset in (0..PAGE_SIZE).step_by(8) {
        assert_eq!(page.u64(offset).unwrap().load(SeqCst), 0, "at {offset}");
    }
}

#[test]
fn configurations_that_do_not_fit_are_refused() {
    for vcpus in [0, u32::MAX] {
        let page = Arc::new(SharedPage::new(Arc::new(HeapPages::new(1))));
        let vcpus = Vcpus::new(vcpus, page, Arc::new(()));
        assert_eq!(vcpus.err(), Some(EvtchnError::BadConfig));
    }
}
