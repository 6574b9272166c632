//! Images that lie.

use std::sync::Arc;

use cantle_image::Format;
use proptest::prelude::*;

use super::{made, opened, pattern};
use crate::{CreateOptions, exercise};

fn image(bits: u32) -> Vec<u8> {
    let (file, image) = made(&CreateOptions {
        cluster_size: 1 << bits,
        ..CreateOptions::new(4 << 20)
    });
    image.write(0, &pattern(1, 20 << 10)).unwrap();
    image.write(1 << 20, &pattern(2, 512)).unwrap();
    image.flush().unwrap();
    image.discard(4096, 4096).unwrap();
    image.flush().unwrap();
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    std::os::unix::fs::FileExt::read_exact_at(&*file, &mut bytes, 0).unwrap();
    bytes
}

/// Places where the tables are: header, refcount table and blocks, L1, L2.
fn places(bytes: &[u8], bits: u32) -> Vec<usize> {
    let at = |place: usize| {
        usize::try_from(u64::from_be_bytes(
            bytes[place..place + 8].try_into().unwrap(),
        ))
        .unwrap()
    };
    let (l1, table) = (at(40), at(48));
    let l2 = at(l1) & 0xff_ffff_fe00;
    assert!(l2 != 0 && l2 < bytes.len() && bits > 0);
    vec![0, l1, table, at(table), l2]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn changed_tables_neither_panic_nor_hang(
        bits in prop::sample::select(vec![9u32, 12, 16]),
        how in any::<u8>(),
        changes in prop::collection::vec((0usize..5, 0usize..32, prop_oneof![
            any::<u64>(),
            (0u64..64).prop_map(|bit| 1 << bit),
            Just(u64::MAX), Just(0),
            (0u64..40).prop_map(|cluster| (cluster << 12) | 1 << 63),
            (0u64..200).prop_map(|cluster| (cluster << 9) | 1 << 63),
            (0u64..40).prop_map(|cluster| (cluster << 16) | 1 << 62),
        ]), 1..6),
    ) {
        let mut bytes = image(bits);
        let places = places(&bytes, bits);
        for (place, index, value) in changes {
            let at = places[place] + index * if place == 0 { 4 } else { 8 };
            let value = value.to_be_bytes();
            let part = if place == 0 { &value[4..] } else { &value[..] };
            bytes[at..at + part.len()].copy_from_slice(part);
        }
        bytes.insert(0, how);
        exercise(&bytes);
    }

    #[test]
    fn any_bytes_after_a_header_neither_panic_nor_hang(how in any::<u8>(), at in 0usize..2000, bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut all = image(9);
        let end = (at + bytes.len()).min(all.len());
        let at = at.min(end);
        all[at..end].copy_from_slice(&bytes[..end - at]);
        all.truncate(end.max(600));
        all.insert(0, how);
        exercise(&all);
    }
}

#[test]
fn data_that_point_to_tables_are_refused() {
    let bytes = image(12);
    let places = places(&bytes, 12);
    for target in &places[1..] {
        let mut bytes = bytes.clone();
        // The guest would write its own header, or tables.
        let entry = *target as u64 | 1 << 63;
        bytes[places[4]..places[4] + 8].copy_from_slice(&entry.to_be_bytes());
        let file = Arc::new(tempfile::tempfile().unwrap());
        std::os::unix::fs::FileExt::write_all_at(&*file, &bytes, 0).unwrap();
        let image = opened(Arc::new(Arc::clone(&file)));
        assert!(image.write(0, &[0xff; 512]).is_err());
        assert!(image.map(0, 512).is_err());
        let mut after = vec![0; bytes.len()];
        std::os::unix::fs::FileExt::read_exact_at(&*file, &mut after, 0).unwrap();
        assert!(after == bytes);
    }
}

#[test]
fn tables_that_are_counted_as_free_are_not_given_out() {
    let bytes = image(12);
    let block = places(&bytes, 12)[3];
    for cluster in 0..5 {
        let mut bytes = bytes.clone();
        bytes[block + cluster * 2..block + cluster * 2 + 2].fill(0);
        let file = Arc::new(tempfile::tempfile().unwrap());
        std::os::unix::fs::FileExt::write_all_at(&*file, &bytes, 0).unwrap();
        let image = opened(Arc::new(Arc::clone(&file)));
        let wrote = image
            .write(2 << 20, &[0xff; 4096])
            .and_then(|()| image.flush());
        assert!(image.check(false).unwrap().errors > 0);
        let mut after = vec![0; 4096];
        std::os::unix::fs::FileExt::read_exact_at(&*file, &mut after, 0).unwrap();
        assert!(after == bytes[..4096]);
        assert!(wrote.is_err(), "cluster {cluster}");
    }
}
