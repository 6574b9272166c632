//! Any bytes as one of the files that layers over disks keep: changed blocks, a mirror's state, a cache's header.

use cantle_layers::hostile;

/// Where a header may begin.
const HEADERS: [usize; 2] = [0, 4096];

/// Runs one input. Its first byte says which file it is, and whether the checksums of its headers are made right first, so that what is behind
/// them is looked at.
///
/// # Panics
///
/// Where a file that opens does not keep what it should.
pub fn run(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if which & 0x80 == 0 {
        HEADERS.iter().for_each(|start| seal(&mut bytes, *start));
    }
    // An error is the host's, which has no memory file to give.
    let _ = match which % 3 {
        0 => hostile::changed_blocks(&bytes),
        1 => hostile::mirror_state(&bytes),
        _ => {
            hostile::cache_header(&bytes);
            Ok(())
        }
    };
}

/// Makes a header's checksum right: at 16, of what is before it and of the fields from 20 on, whose length is at 12.
fn seal(bytes: &mut [u8], start: usize) {
    let Some(header) = bytes.get_mut(start..) else {
        return;
    };
    let Some(len) = header.get(12..16).and_then(|len| len.try_into().ok()) else {
        return;
    };
    let end = (u32::from_le_bytes(len) as usize).saturating_add(20);
    let (Some(before), Some(fields)) = (header.get(..16), header.get(20..end)) else {
        return;
    };
    let crc = crc32fast::hash(&[before, fields].concat());
    if let Some(place) = header.get_mut(16..20) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seeds are files as the layers write them, so that this fails where their headers change.
    #[test]
    fn a_sealed_header_stays_as_it_is() {
        for (name, which) in [("changed", 0), ("mirror", 1)] {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../corpus-seeds/image_layers");
            let seed = std::fs::read(format!("{folder}/{name}")).expect("the seed is there");
            assert_eq!(seed.first(), Some(&which));
            let mut bytes = seed[1..].to_vec();
            seal(&mut bytes, 0);
            assert!(bytes == seed[1..], "{name}");
        }
    }
}
