use proptest::prelude::*;

use super::super::samples::pack;
use super::*;

const PACKINGS: [Packing; 4] = [Packing::Gzip, Packing::Xz, Packing::Lz4, Packing::Zstd];

/// Bytes that pack neither to nothing nor not at all, `len` of them.
fn content(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from(i * i / 7 % 251).unwrap())
        .collect()
}

fn unpack_error(result: Result<Vec<u8>, ImageError>) -> bool {
    matches!(result, Err(ImageError::Unpack { .. }))
}

#[test]
fn each_packing_is_detected_and_unpacks_to_what_was_packed() {
    let content = content(100_000);
    for packing in PACKINGS {
        let packed = pack(packing, &content);
        assert_eq!(Packing::detect(&packed), Some(packing));
        for size in [None, Some(100_000)] {
            assert!(
                unpack(packing, &packed, size).unwrap() == content,
                "{packing}, {size:?}"
            );
        }
    }
}

#[test]
fn lz4_blocks_and_frames_follow_each_other() {
    let content = content(LZ4_BLOCK + 1000);
    let mut packed = pack(Packing::Lz4, &content);
    packed.extend(pack(Packing::Lz4, b"second frame"));
    let expected = [&content, b"second frame".as_slice()].concat();
    assert!(unpack(Packing::Lz4, &packed, None).unwrap() == expected);
}

#[test]
fn a_size_that_is_not_true_is_refused_both_ways() {
    for packing in PACKINGS {
        let packed = pack(packing, &content(5000));
        assert!(
            unpack_error(unpack(packing, &packed, Some(4999))),
            "{packing}: says too little"
        );
        assert!(
            unpack_error(unpack(packing, &packed, Some(5001))),
            "{packing}: says too much"
        );
        assert!(
            unpack_error(unpack(packing, &packed, Some(u32::MAX))),
            "{packing}: says far too much"
        );
    }
}

#[test]
fn a_cut_off_payload_is_refused() {
    for packing in PACKINGS {
        let packed = pack(packing, &content(5000));
        let cut = &packed[..packed.len() - 9];
        assert!(unpack_error(unpack(packing, cut, None)), "{packing}");
    }
}

/// XSA-25: a small image that unpacks to far more than the host has. Only what the limit allows is ever made.
#[test]
fn xsa_25_decompression_bomb() {
    let zeros = vec![0; 32 << 20];
    for packing in PACKINGS {
        let packed = pack(packing, &zeros);
        assert!(packed.len() < 1 << 20);
        let mut out = Vec::new();
        let result = match packing {
            Packing::Gzip => read_to(
                flate2::bufread::GzDecoder::new(&packed[..]),
                &mut out,
                1 << 20,
            ),
            Packing::Zstd => read_to(
                zstd::stream::read::Decoder::new(&packed[..]).unwrap(),
                &mut out,
                1 << 20,
            ),
            Packing::Xz => read_to(
                liblzma::bufread::XzDecoder::new(&packed[..]),
                &mut out,
                1 << 20,
            ),
            _ => lz4_frame(&packed, &mut out, 1 << 20),
        };
        assert!(result.is_err(), "{packing}");
        assert!(
            out.len() <= (1 << 20) + 1,
            "{packing} made {} bytes",
            out.len()
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_behind_a_magic_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), which in 0usize..4) {
        let packing = PACKINGS[which];
        let mut packed = pack(packing, b"x")[..4].to_vec();
        packed.extend(bytes);
        let _ = unpack(packing, &packed, Some(1 << 16));
    }

    #[test]
    fn changed_bytes_never_panic(at in 0usize..1000, value in any::<u8>(), which in 0usize..4) {
        let mut packed = pack(PACKINGS[which], &content(1000));
        let at = at % packed.len();
        packed[at] = value;
        if let Ok(out) = unpack(PACKINGS[which], &packed, Some(1000)) {
            prop_assert_eq!(out.len(), 1000);
        }
    }
}
