use proptest::prelude::*;

use super::super::samples::{SampleElf, SampleSegment};
use super::*;

/// Where the 64-bit sample has its first program header.
const FIRST: usize = 64;

fn sample() -> Vec<u8> {
    SampleElf::pvh(&[0xf4; 64]).build()
}

/// `sample` with `bytes` at `at`.
fn broken(at: usize, bytes: &[u8]) -> Result<Elf, ElfError> {
    let mut file = sample();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    Elf::parse(&file)
}

#[test]
fn segments_and_entry_of_a_64_bit_kernel() {
    let elf = Elf::parse(&sample()).unwrap();
    assert_eq!(elf.pvh_entry(), Some(0x10_0000));
    let [segment] = elf.segments() else {
        panic!("{elf:?}")
    };
    assert_eq!(
        (segment.paddr, segment.size, segment.executable),
        (0x10_0000, 0x1040, true)
    );
    assert_eq!(sample()[segment.file.clone()], [0xf4; 64]);
}

#[test]
fn entry_of_a_32_bit_kernel_with_a_32_bit_note() {
    let mut sample = SampleElf::pvh(&[0xf4]);
    sample.wide = false;
    sample.machine = 3;
    sample.notes = vec![(b"Xen\0".to_vec(), 18, 0x10_0000u32.to_le_bytes().to_vec())];
    let elf = Elf::parse(&sample.build()).unwrap();
    assert_eq!(elf.pvh_entry(), Some(0x10_0000));
    assert_eq!(elf.segments()[0].size, 0x1001);
}

#[test]
fn a_note_of_the_same_type_by_another_name_is_no_entry() {
    let mut sample = SampleElf::pvh(&[0xf4]);
    sample.notes = vec![(b"GNU\0".to_vec(), 18, vec![0; 8])];
    assert_eq!(Elf::parse(&sample.build()).unwrap().pvh_entry(), None);
}

#[test]
fn each_broken_header_field_is_named() {
    let unsupported = |field, value| Err(ElfError::Unsupported { field, value });
    assert_eq!(broken(0, &[0]), Err(ElfError::NotElf));
    assert_eq!(broken(4, &[3]), unsupported("class", 3));
    assert_eq!(broken(5, &[2]), unsupported("byte order", 2));
    assert_eq!(broken(16, &[1]), unsupported("type", 1));
    assert_eq!(broken(18, &[183]), unsupported("machine", 183));
    assert_eq!(broken(0x36, &[55]), unsupported("program header size", 55));
    assert_eq!(
        broken(0x38, &[0, 0]),
        unsupported("number of program headers", 0)
    );
    assert_eq!(
        broken(0x38, &[65, 0]),
        unsupported("number of program headers", 65)
    );
}

/// XSA-55: offsets, sizes and counts of the image were used unchecked, with wrapping sums among them.
#[test]
fn xsa_55_unchecked_offsets_and_sizes() {
    let truncated =
        |result: Result<Elf, ElfError>| matches!(result, Err(ElfError::Truncated { .. }));
    let bad_segment =
        |result: Result<Elf, ElfError>| matches!(result, Err(ElfError::Segment { .. }));
    let max = u64::MAX.to_le_bytes();
    assert!(
        truncated(broken(0x20, &max)),
        "program headers at the end of the address space"
    );
    assert!(
        truncated(broken(0x20, &(sample().len() as u64 - 8).to_le_bytes())),
        "program headers cut off"
    );
    assert!(
        truncated(broken(FIRST + 8, &max)),
        "segment at the end of the address space"
    );
    assert!(
        truncated(broken(FIRST + 8, &(sample().len() as u64).to_le_bytes())),
        "segment behind the file"
    );
    assert!(
        bad_segment(broken(FIRST + 32, &max)),
        "more in the file than in memory"
    );
    assert!(bad_segment(broken(FIRST + 24, &max)), "segment that wraps");
    assert!(bad_segment(broken(FIRST + 40, &max)), "size that wraps");
    for length in 0..sample().len() {
        assert!(
            Elf::parse(&sample()[..length]).is_err(),
            "cut off at {length}"
        );
    }
}

/// XSA-55: a walk over notes that trusts their sizes does not end, or leaves the segment.
#[test]
fn xsa_55_notes_that_lie_about_their_size() {
    for (name, desc) in [(u32::MAX, 4), (4, u32::MAX), (u32::MAX, u32::MAX), (4, 3)] {
        let mut file = sample();
        let end = file.len();
        let note = end - 24;
        file[note..note + 4].copy_from_slice(&name.to_le_bytes());
        file[note + 4..note + 8].copy_from_slice(&desc.to_le_bytes());
        assert!(
            matches!(
                Elf::parse(&file),
                Err(ElfError::Truncated { what: "note", .. })
            ),
            "name {name:#x}, descriptor {desc:#x}"
        );
    }
    let mut sample = SampleElf::pvh(&[0xf4]);
    sample.notes = vec![(vec![], 0, vec![]); 1000];
    assert_eq!(Elf::parse(&sample.build()).unwrap().pvh_entry(), None);
}

/// XSA-25: an image that unpacks to, or loads over, more than there is. Overlap is refused here, size by the loader.
#[test]
fn xsa_25_segments_that_overlap() {
    let mut sample = SampleElf::pvh(&[0xf4; 64]);
    sample.segments.push(SampleSegment {
        paddr: 0x10_103f,
        bytes: vec![1],
        size: 1,
        flags: 4,
    });
    assert!(matches!(
        Elf::parse(&sample.build()),
        Err(ElfError::Segment {
            paddr: 0x10_103f,
            ..
        })
    ));
    sample.segments[1].paddr += 1;
    assert!(Elf::parse(&sample.build()).is_ok());
}

#[test]
fn an_entry_outside_of_the_segments_or_beyond_32_bits_is_refused() {
    for entry in [0u64, 0x10_1040, 1 << 32 | 0x10_0000] {
        let mut sample = SampleElf::pvh(&[0xf4; 64]);
        sample.notes[1].2 = entry.to_le_bytes().to_vec();
        assert_eq!(Elf::parse(&sample.build()), Err(ElfError::Entry { entry }));
    }
}

proptest! {
    #[test]
    fn any_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), elf in any::<bool>()) {
        if elf && bytes.len() > 20 {
            bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
            bytes[16] = 2;
            bytes[17] = 0;
        }
        let _ = Elf::parse(&bytes);
    }

    #[test]
    fn changed_bytes_never_panic_and_what_is_accepted_holds(
        changes in proptest::collection::vec((0usize..400, any::<u8>()), 1..8)
    ) {
        let mut file = sample();
        for (at, value) in changes {
            let at = at % file.len();
            file[at] = value;
        }
        if let Ok(elf) = Elf::parse(&file) {
            for segment in elf.segments() {
                prop_assert!(segment.file.end <= file.len());
                prop_assert!(segment.file.len() as u64 <= segment.size);
                prop_assert!(segment.paddr.checked_add(segment.size).is_some());
            }
        }
    }
}
