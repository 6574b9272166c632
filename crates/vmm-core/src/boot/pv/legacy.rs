//! The section `__xen_guest` of kernels from before there were notes: `KEY=VALUE,…`, read as the notes that it would be.

use cantle_abi::PAGE_SHIFT;
use cantle_abi::elfnote::{
    XEN_ELFNOTE_ENTRY, XEN_ELFNOTE_FEATURES, XEN_ELFNOTE_GUEST_OS, XEN_ELFNOTE_HYPERCALL_PAGE,
    XEN_ELFNOTE_LOADER, XEN_ELFNOTE_PADDR_OFFSET, XEN_ELFNOTE_VIRT_BASE, XEN_ELFNOTE_XEN_VERSION,
};

use crate::boot::elf::Note;

/// The notes that a section stands for. Keys without a meaning here are left out, and so are numbers that are none.
pub(super) fn notes(section: &[u8]) -> Vec<Note> {
    let text = section.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let values: Vec<(&str, &str)> = text
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim().trim_matches('"')))
        .collect();
    let find = |key| values.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
    let numbers = |key| find(key).and_then(number);
    let mut notes = Vec::new();
    for (key, kind) in [
        ("GUEST_OS", XEN_ELFNOTE_GUEST_OS),
        ("XEN_VER", XEN_ELFNOTE_XEN_VERSION),
        ("LOADER", XEN_ELFNOTE_LOADER),
        ("FEATURES", XEN_ELFNOTE_FEATURES),
    ] {
        if let Some(value) = find(key) {
            let value = value.as_bytes().to_vec();
            notes.push(Note { kind, value });
        }
    }
    let base = numbers("VIRT_BASE");
    let page = numbers("HYPERCALL_PAGE");
    for (kind, number) in [
        (XEN_ELFNOTE_VIRT_BASE, base),
        (XEN_ELFNOTE_ENTRY, numbers("VIRT_ENTRY")),
        // Here it is the first virtual address where it is not said.
        (
            XEN_ELFNOTE_PADDR_OFFSET,
            numbers("ELF_PADDR_OFFSET").or(base),
        ),
        // Here it is a page's number.
        (
            XEN_ELFNOTE_HYPERCALL_PAGE,
            page.map(|page| base.unwrap_or(0).wrapping_add(page << PAGE_SHIFT)),
        ),
    ] {
        if let Some(number) = number {
            let value = number.to_le_bytes().to_vec();
            notes.push(Note { kind, value });
        }
    }
    notes
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_notes() {
        let section = b"GUEST_OS=linux,GUEST_VER=2.6,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,\
            VIRT_ENTRY=0xffffffff80200000,HYPERCALL_PAGE=0x202,FEATURES=writable_page_tables|x,LOADER=generic\0rest";
        let notes = notes(section);
        let find = |kind| notes.iter().find(|note| note.kind == kind).unwrap();
        assert_eq!(find(XEN_ELFNOTE_GUEST_OS).text(), Some("linux"));
        assert_eq!(
            find(XEN_ELFNOTE_ENTRY).number(),
            Some(0xffff_ffff_8020_0000)
        );
        assert_eq!(
            find(XEN_ELFNOTE_PADDR_OFFSET).number(),
            Some(0xffff_ffff_8000_0000)
        );
        assert_eq!(
            find(XEN_ELFNOTE_HYPERCALL_PAGE).number(),
            Some(0xffff_ffff_8020_2000)
        );
        assert!(super::notes(b"nothing").is_empty());
        assert!(super::notes(b"VIRT_BASE=x,\xff=\xff").is_empty());
    }
}
