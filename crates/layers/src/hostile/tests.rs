use proptest::prelude::*;

use super::*;
use crate::{Granularity, MirrorOptions};

/// A file of changed blocks with three generations.
fn changed() -> Vec<u8> {
    let file = file(&[]).unwrap();
    let granularity = Granularity::new(4096).unwrap();
    let changed =
        ChangedBlocks::create(disk().unwrap(), Box::new(Arc::clone(&file)), granularity).unwrap();
    let changed = Arc::new(changed);
    let live = crate::test_utils::EagerDisk::new(changed.clone());
    for at in 0..3 {
        live.write(at * 65536, &[1; 4096]).unwrap();
        changed.checkpoint(&*live).unwrap();
    }
    changed.save().unwrap();
    let mut bytes = vec![0; usize::try_from(Storage::len(&file).unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn state() -> Vec<u8> {
    let file = file(&[]).unwrap();
    MirrorState::create(
        Box::new(Arc::clone(&file)),
        DISK,
        MirrorOptions::default().granularity,
    )
    .unwrap();
    let mut bytes = vec![0; usize::try_from(Storage::len(&file).unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Changes some bytes, and makes the checksum of each header right again, so that the fields are looked at.
fn damage(mut bytes: Vec<u8>, changes: &[(usize, u8)], headers: &[usize]) -> Vec<u8> {
    let len = bytes.len();
    for (at, byte) in changes {
        bytes[at % len] = *byte;
    }
    for start in headers {
        let Some(header) = bytes.get(*start..) else {
            continue;
        };
        let fields = u32::from_le_bytes(header[12..16].try_into().unwrap()) as usize;
        let Some(fields) = header.get(20..20_usize.saturating_add(fields)) else {
            continue;
        };
        let crc = crc32fast::hash(&[&header[..16], fields].concat());
        bytes[start + 16..start + 20].copy_from_slice(&crc.to_le_bytes());
    }
    bytes
}

proptest! {
    #[test]
    fn damaged_files_of_changes(changes in prop::collection::vec((0_usize..8192, any::<u8>()), 0..6), near in prop::collection::vec((0_usize..300, any::<u8>()), 0..3)) {
        let near = near.iter().flat_map(|(at, byte)| [(*at, *byte), (at + 4096, *byte)]);
        let changes: Vec<_> = changes.iter().copied().chain(near).collect();
        changed_blocks(&damage(changed(), &changes, &[0, 4096])).unwrap();
    }

    #[test]
    fn damaged_states(changes in prop::collection::vec((0_usize..64, any::<u8>()), 0..4), cut in 0_usize..5000) {
        let mut bytes = damage(state(), &changes, &[0]);
        bytes.truncate(cut);
        mirror_state(&bytes).unwrap();
    }

    #[test]
    fn any_bytes(bytes: Vec<u8>) {
        changed_blocks(&bytes).unwrap();
        mirror_state(&bytes).unwrap();
        cache_header(&bytes);
    }
}
