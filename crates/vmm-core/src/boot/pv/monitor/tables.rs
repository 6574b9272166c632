//! The monitor's own address space.

use cantle_abi::{PAGE_SHIFT, PAGE_SIZE};
use cantle_pv_monitor::interface::{
    BOOT_INFO, DIRECT_MAP, M2P_BASE, MONITOR_BASE, SHARED_GDT, VCPU_AREA_SIZE, vcpu_area, window,
};

use super::super::tables::{A, D, NX, P, PS, PageTables, RW};
use super::{LARGE, LARGE_FRAMES, MonitorLayout, PAGE, WINDOWS_PER_TABLE};
use crate::boot::elf::Segment;

/// An entry that leads to a table of the monitor's: none of it is for user mode.
const INNER: u64 = P | RW | A;
/// What is written to, and never run.
pub(super) const DATA: u64 = P | RW | A | D | NX;
/// What is only read.
const CONSTANT: u64 = P | A | NX;
/// What is run.
const CODE: u64 = P | A;

impl MonitorLayout {
    pub(super) fn page_tables(&self) -> PageTables<impl Fn(u64) -> u64> {
        let first = self.tables.start;
        let mut tables = PageTables::new(move |number| first + number, INNER);
        for (address, frame) in (0..).zip(self.m2p.start..self.m2p.end).step_by(512) {
            let entry = frame << PAGE_SHIFT | CONSTANT | D | PS;
            tables.set(M2P_BASE + (address << PAGE_SHIFT), 2, entry);
        }
        for segment in self.elf.segments() {
            self.map_segment(&mut tables, segment);
        }
        tables.map(BOOT_INFO, self.boot_info, CONSTANT);
        tables.map(SHARED_GDT, self.shared_gdt, DATA);
        for vcpu in 0..self.vcpus {
            for page in 0..VCPU_AREA_SIZE / PAGE {
                if let Some(at) = self.area_page(vcpu, page) {
                    tables.map(vcpu_area(vcpu) + page * PAGE, at >> PAGE_SHIFT, DATA);
                }
            }
        }
        for (table, vcpu) in
            (self.windows.start..self.windows.end).zip((0..).step_by(WINDOWS_PER_TABLE as usize))
        {
            tables.set(window(vcpu), 2, table << PAGE_SHIFT | INNER);
        }
        for large in 0..self.guest.end().div_ceil(LARGE_FRAMES) {
            let at = large * LARGE;
            tables.set(DIRECT_MAP + at, 2, at | DATA | PS);
        }
        let at = DIRECT_MAP + (self.shared_info << PAGE_SHIFT);
        // Above the hole it is, in the direct map's eyes, memory already.
        if self.shared_info >= self.guest.end() {
            tables.map(at, self.shared_info, DATA);
        }
        tables
    }

    fn map_segment<F: Fn(u64) -> u64>(&self, tables: &mut PageTables<F>, segment: &Segment) {
        let flags = match (segment.executable, segment.writable) {
            (true, _) => CODE,
            (false, true) => DATA,
            (false, false) => CONSTANT,
        };
        for address in (segment.vaddr..segment.vaddr + segment.size).step_by(PAGE_SIZE) {
            let frame = self.image.start + ((address - MONITOR_BASE) >> PAGE_SHIFT);
            tables.map(address, frame, flags);
        }
    }
}
