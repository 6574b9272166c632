//! Everything that is written is read back by walking the tables that were written, as a processor would.

mod guest;
mod monitor;
mod refused;

use cantle_abi::elfnote::{
    XEN_ELFNOTE_ENTRY, XEN_ELFNOTE_GUEST_OS, XEN_ELFNOTE_HYPERCALL_PAGE, XEN_ELFNOTE_INIT_P2M,
    XEN_ELFNOTE_MOD_START_PFN, XEN_ELFNOTE_VIRT_BASE,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::PvFrames;
use super::tables::{P, PS, RW, U};
use crate::boot::image::KernelImage;
use crate::boot::samples::{SampleElf, SampleSegment};

/// Where Linux is mapped.
const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
/// Where Linux has its P2M.
const INIT_P2M: u64 = 0x80_0000_0000;
/// The address bits of an entry.
const ADDR: u64 = 0x000f_ffff_ffff_f000;

/// A kernel like Linux: code at 16 MiB, data behind it.
fn linux() -> SampleElf {
    let note = |kind: u32, value: u64| (b"Xen\0".to_vec(), kind, value.to_le_bytes().to_vec());
    let segment = |paddr, bytes: Vec<u8>, size, flags| SampleSegment {
        paddr,
        bytes,
        size,
        flags,
    };
    SampleElf {
        wide: true,
        machine: 62,
        segments: vec![
            segment(0x100_0000, vec![0xc3; 0x3000], 0x3000, 5),
            segment(0x100_3000, vec![0xda; 100], 0x8000, 6),
        ],
        notes: vec![
            (b"Xen\0".to_vec(), XEN_ELFNOTE_GUEST_OS, b"linux\0".to_vec()),
            note(XEN_ELFNOTE_VIRT_BASE, VIRT_BASE),
            note(XEN_ELFNOTE_ENTRY, VIRT_BASE + 0x100_0010),
            note(XEN_ELFNOTE_INIT_P2M, INIT_P2M),
            note(XEN_ELFNOTE_MOD_START_PFN, 1),
        ],
        xen_guest: None,
    }
}

/// A kernel like those before: everything in one region, and a hypercall page.
fn plain() -> SampleElf {
    let mut kernel = linux();
    kernel.notes.truncate(3);
    kernel.notes[0].2 = b"other\0".to_vec();
    let page = (VIRT_BASE + 0x100_1000).to_le_bytes().to_vec();
    kernel
        .notes
        .push((b"Xen\0".to_vec(), XEN_ELFNOTE_HYPERCALL_PAGE, page));
    kernel
}

fn image(sample: &SampleElf) -> KernelImage {
    KernelImage::parse(sample.build()).expect("the sample is a kernel")
}

fn memory(frames: &PvFrames) -> GuestMemoryMmap<()> {
    let ranges: Vec<_> = frames
        .ram_ranges()
        .into_iter()
        .map(|(start, bytes)| (GuestAddress(start), usize::try_from(bytes).expect("fits")))
        .collect();
    GuestMemoryMmap::from_ranges(&ranges).expect("memory is there")
}

/// What a walk finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    /// The machine address.
    at: u64,
    /// The last entry.
    entry: u64,
    /// User mode may, by all levels; so may writes.
    user: bool,
    writable: bool,
    large: bool,
}

/// Walks the tables whose top is at a frame.
fn walk(memory: &GuestMemoryMmap<()>, top: u64, address: u64) -> Option<Found> {
    let mut table = top << 12;
    let (mut user, mut writable) = (true, true);
    for level in (0..4).rev() {
        let shift = 12 + 9 * level;
        let slot = table + (address >> shift & 0x1ff) * 8;
        let entry: u64 = memory.read_obj(GuestAddress(slot)).ok()?;
        if entry & P == 0 {
            return None;
        }
        user &= entry & U != 0;
        writable &= entry & RW != 0;
        let large = level == 1 && entry & PS != 0;
        if level == 0 || large {
            let offset = (1 << shift) - 1;
            return Some(Found {
                at: (entry & ADDR & !offset) | (address & offset),
                entry,
                user,
                writable,
                large,
            });
        }
        table = entry & ADDR;
    }
    None
}

/// Reads through the tables.
fn peek<const N: usize>(memory: &GuestMemoryMmap<()>, top: u64, address: u64) -> [u8; N] {
    let mut bytes = [0; N];
    let found = walk(memory, top, address).expect("mapped");
    memory
        .read_slice(&mut bytes, GuestAddress(found.at))
        .expect("memory");
    bytes
}
