use proptest::prelude::*;

use super::super::KernelImage;
use super::super::elf::Elf;
use super::super::samples::SampleElf;
use super::*;

/// Code with a pair `distance` apart, each call followed by `after`, at offset 100.
fn code(distance: usize, after: u8) -> Vec<u8> {
    let mut code = vec![0x90; 400];
    code[100..103].copy_from_slice(&VMMCALL);
    code[103] = after;
    code[100 + distance..103 + distance].copy_from_slice(&VMCALL);
    code[103 + distance] = after;
    code
}

/// All of `code` as one executable segment.
fn find(code: &[u8]) -> Result<HypercallSites, RewriteError> {
    let segment = Segment {
        file: 0..code.len(),
        paddr: 0,
        size: code.len() as u64,
        vaddr: 0,
        executable: true,
        writable: false,
    };
    HypercallSites::find(code, &[segment])
}

#[test]
fn pairs_of_both_distances_and_endings_are_found() {
    for distance in [16, 32] {
        for after in [0xc3, 0xe9] {
            let sites = HypercallSites {
                vmmcall: 100,
                vmcall: 100 + distance,
            };
            assert_eq!(find(&code(distance, after)), Ok(sites));
        }
    }
}

#[test]
fn what_is_no_pair_is_not_found() {
    for distance in [8, 24, 48] {
        assert_eq!(
            find(&code(distance, 0xc3)),
            Err(RewriteError::None),
            "distance {distance}"
        );
    }
    assert_eq!(
        find(&code(16, 0x90)),
        Err(RewriteError::None),
        "no return behind"
    );
    let mut lone = code(16, 0xc3);
    lone[116] = 0;
    assert_eq!(find(&lone), Err(RewriteError::None));
    assert_eq!(find(&[]), Err(RewriteError::None));
    assert_eq!(
        find(&code(16, 0xc3)[..119]),
        Err(RewriteError::None),
        "cut off"
    );
}

#[test]
fn two_pairs_are_ambiguous() {
    let mut twice = code(16, 0xc3);
    twice.extend(code(32, 0xe9));
    assert_eq!(
        find(&twice),
        Err(RewriteError::Ambiguous {
            first: 100,
            second: 500
        })
    );
}

#[test]
fn data_segments_are_not_searched() {
    let mut sample = SampleElf::pvh(&code(16, 0xc3));
    sample.segments[0].flags = 6;
    let file = sample.build();
    let elf = Elf::parse(&file).unwrap();
    assert_eq!(
        HypercallSites::find(&file, elf.segments()),
        Err(RewriteError::None)
    );
}

#[test]
fn rewriting_an_image_changes_six_bytes() {
    let file = SampleElf::pvh(&code(32, 0xe9)).build();
    let mut image = KernelImage::parse(file.clone()).unwrap();
    let sites = image.rewrite_hypercalls(0xe0).unwrap();
    let changed: Vec<usize> = (0..file.len())
        .filter(|i| file[*i] != image.bytes()[*i])
        .collect();
    let expected: Vec<usize> = (sites.vmmcall..sites.vmmcall + 3)
        .chain(sites.vmcall..sites.vmcall + 3)
        .collect();
    assert_eq!(changed, expected);
    assert_eq!(
        image.bytes()[sites.vmcall..sites.vmcall + 3],
        [0xe7, 0xe0, 0x90]
    );
    assert_eq!(
        image.rewrite_hypercalls(0xe0),
        Err(RewriteError::None),
        "there is nothing left to find"
    );
}

#[test]
fn sites_of_another_image_change_nothing() {
    let sites = HypercallSites {
        vmmcall: 100,
        vmcall: 116,
    };
    let mut other = code(32, 0xc3);
    let before = other.clone();
    assert_eq!(
        sites.rewrite(&mut other, 1),
        Err(RewriteError::Changed { at: 116 })
    );
    assert_eq!(other, before);
    assert_eq!(
        sites.rewrite(&mut [], 1),
        Err(RewriteError::Changed { at: 100 })
    );
}

proptest! {
    #[test]
    fn agrees_with_a_plain_search(picks in proptest::collection::vec(0usize..9, 0..200)) {
        const PIECES: [&[u8]; 9] = [
            &VMMCALL, &VMCALL, &[0xc3], &[0xe9], &[0x90; 12], &[0x90; 28], &[0x0f], &[0x0f, 0x01, 0xd9, 0xc3],
            &[0x0f, 0x01, 0xd9, 0xe9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0f, 0x01, 0xc1, 0xc3],
        ];
        let code: Vec<u8> = picks.iter().flat_map(|p| PIECES[*p].iter().copied()).collect();
        let call = |at: usize, last: u8| {
            code.len() >= at + 4 && code[at..at + 3] == [0x0f, 1, last] && [0xc3, 0xe9].contains(&code[at + 3])
        };
        let pairs: Vec<usize> =
            (0..code.len()).filter(|at| call(*at, 0xd9) && (call(at + 16, 0xc1) || call(at + 32, 0xc1))).collect();
        match (find(&code), pairs.as_slice()) {
            (Ok(sites), [one]) => prop_assert_eq!(sites.vmmcall, *one),
            (Err(RewriteError::None), []) => {}
            (Err(RewriteError::Ambiguous { first, second }), [a, b, ..]) => prop_assert_eq!((first, second), (*a, *b)),
            (found, _) => prop_assert!(false, "{:?} but {:?}", found, pairs),
        }
    }
}
