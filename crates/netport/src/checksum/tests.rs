use super::*;
use crate::test_utils::checksum_of;
use proptest::prelude::*;

proptest! {
    #[test]
    fn sums_agree_with_the_plain_way(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        // The two forms of zero differ only for all-zero input, where both give 0.
        prop_assert_eq!(sum(&bytes), checksum_of(&bytes));
    }

    #[test]
    fn large_words_carry(bytes in proptest::collection::vec(0xf0_u8.., 0..70_000)) {
        prop_assert_eq!(sum(&bytes), checksum_of(&bytes));
    }

    #[test]
    fn pieces_sum_to_the_whole(
        bytes in proptest::collection::vec(any::<u8>(), 0..500),
        mut cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut cuts: Vec<_> = cuts.drain(..).map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
        prop_assert_eq!(sum_parts(pieces).value(), checksum_of(&bytes));
    }

    #[test]
    fn a_completed_field_holds_the_sum_of_what_was_there(
        mut frame in proptest::collection::vec(any::<u8>(), 40..200),
        start in 0_u16..20,
        offset in 0_u16..18,
    ) {
        let expected = match !checksum_of(&frame[usize::from(start)..]) {
            0 => 0xffff,
            sum => sum,
        };
        let mut model = frame.clone();
        let field = usize::from(start + offset);
        model[field..field + 2].copy_from_slice(&expected.to_be_bytes());
        prop_assert!(complete(&mut frame, start, offset));
        prop_assert_eq!(frame, model);
    }
}

#[test]
fn a_field_outside_the_frame_is_refused() {
    let mut frame = [1_u8; 20];
    assert!(!complete(&mut frame, 21, 0));
    assert!(!complete(&mut frame, 10, 9));
    assert!(!complete(&mut frame, u16::MAX, u16::MAX));
    assert_eq!(frame, [1_u8; 20]);
}

/// `cargo test -p cantle-netport --release -- --ignored --nocapture speed_of_sums`
#[test]
#[ignore = "a measurement"]
fn speed_of_sums() {
    use std::hint::black_box;
    use std::time::Instant;
    for len in [64_usize, 1500, 65_536] {
        let bytes = vec![0x5a_u8; len];
        let mut to = vec![0_u8; len];
        let rounds = (1 << 30) / len;
        let start = Instant::now();
        for _ in 0..rounds {
            black_box(sum(black_box(&bytes)));
        }
        let summed = start.elapsed();
        let start = Instant::now();
        for _ in 0..rounds {
            black_box(&mut to).copy_from_slice(black_box(&bytes));
        }
        let copied = start.elapsed();
        println!(
            "{len:6} bytes: sum {:5.1} GB/s, copy {:5.1} GB/s",
            1.073 / summed.as_secs_f64(),
            1.073 / copied.as_secs_f64()
        );
    }
}
