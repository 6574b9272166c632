use proptest::prelude::*;

use super::*;

fn rate(bytes: u64, micros: u32) -> Rate {
    Rate::new(
        NonZeroU64::new(bytes).unwrap(),
        NonZeroU32::new(micros).unwrap(),
    )
}

#[test]
fn a_configuration_says_what_its_manual_says() {
    for (text, bytes, micros) in [
        // The manual's own.
        ("10Mb/s", 62_500, 50_000),
        ("250KB/s", 12_500, 50_000),
        ("1MB/s@20ms", 20_000, 20_000),
        ("10MB/s@50ms", 500_000, 50_000),
        ("1Gb/s", 6_250_000, 50_000),
        ("1GB/s@1s", 1_000_000_000, 1_000_000),
        ("8000b/s@500us", 0, 500),
        ("2000B/s@500us", 1, 500),
        // 125 bytes a second and 7/8, of which the tenth is 12 and a half.
        ("1007b/s@100ms", 12, 100_000),
        ("20B/s", 1, 50_000),
    ] {
        match text.parse::<Rate>() {
            Ok(parsed) => assert_eq!(parsed, rate(bytes, micros), "{text}"),
            Err(error) => {
                assert_eq!((error, bytes), (RateError::Zero(text.to_owned()), 0));
            }
        }
    }
}

#[test]
fn anything_else_is_no_rate() {
    for text in [
        "",
        "/s",
        "B/s",
        "10",
        "10MB",
        "10M/s",
        "MB/s",
        "10mB/s",
        "10kB/s",
        "-1MB/s",
        "+1MB/s",
        "1.5MB/s",
        " 1MB/s",
        "1MB/s ",
        "1MB/s@",
        "1MB/s@20",
        "1MB/s@ms",
        "1MB/s@20m",
        "1MB/s@20ns",
        "1MB/s@20ms@",
        "1MB/s@-1ms",
        "1MiB/s",
        "0x10B/s",
        "１MB/s",
        "10,50",
    ] {
        assert_eq!(text.parse::<Rate>(), Err(RateError::Words(text.to_owned())));
    }
    for text in ["0B/s", "7b/s@1s", "1B/s@1us", "1MB/s@0ms", "19B/s"] {
        assert_eq!(text.parse::<Rate>(), Err(RateError::Zero(text.to_owned())));
    }
    for text in [
        "18446744073709551616B/s",
        "99999999999GB/s",
        "1MB/s@4295s",
        "1MB/s@18446744073709551616us",
        "1MB/s@18446744073709551615s",
    ] {
        assert_eq!(
            text.parse::<Rate>(),
            Err(RateError::TooLarge(text.to_owned()))
        );
    }
}

#[test]
fn a_key_is_two_numbers() {
    assert_eq!(Rate::parse_key("500000,50000"), Ok(rate(500_000, 50_000)));
    assert_eq!(Rate::parse_key("1,1"), Ok(rate(1, 1)));
    for text in [
        "", ",", "1", "1,", ",1", "1,1,1", "1, 1", "+1,1", "1,-1", "0x1,1", "1;1", "1,1\n",
    ] {
        assert_eq!(Rate::parse_key(text), Err(RateError::Key(text.to_owned())));
    }
    for text in ["0,50000", "500000,0", "0,0"] {
        assert_eq!(Rate::parse_key(text), Err(RateError::Zero(text.to_owned())));
    }
    for text in ["18446744073709551616,1", "1,4294967296"] {
        assert_eq!(
            Rate::parse_key(text),
            Err(RateError::TooLarge(text.to_owned()))
        );
    }
}

proptest! {
    #[test]
    fn a_key_survives_being_written(bytes in 1..=u64::MAX, micros in 1..=u32::MAX) {
        let rate = rate(bytes, micros);
        prop_assert_eq!(Rate::parse_key(&rate.to_string()), Ok(rate));
    }

    #[test]
    fn any_text_is_a_rate_or_an_error(text in "[0-9GMKBbums/@,]{0,24}", any_text: String) {
        for text in [text, any_text] {
            let _ = Rate::parse_key(&text);
            let _ = text.parse::<Rate>();
        }
    }

    /// Against the same in fractions of the widest numbers.
    #[test]
    fn a_configuration_is_worked_out_exactly(
        number in 0..5_000_000_u64,
        prefix in 0..4_usize,
        bits: bool,
        interval in 1..5000_u64,
        unit in 0..3_usize,
    ) {
        let (prefix, times) = [("", 1), ("K", 1000), ("M", 1_000_000), ("G", 1_000_000_000)][prefix];
        let (unit, micros) = [("us", 1), ("ms", 1000), ("s", 1_000_000)][unit];
        let text = format!("{number}{prefix}{}/s@{interval}{unit}", if bits { "b" } else { "B" });
        let per_second = u128::from(number) * times / if bits { 8 } else { 1 };
        let micros = u128::from(interval) * micros;
        let expected = per_second * micros / 1_000_000;
        match text.parse::<Rate>() {
            Ok(rate) => {
                prop_assert_eq!(u128::from(rate.bytes().get()), expected);
                prop_assert_eq!(rate.interval().as_micros(), micros);
            }
            Err(RateError::Zero(_)) => prop_assert_eq!(expected, 0),
            Err(RateError::TooLarge(_)) => {
                let bits = u128::from(number) * times * 8;
                prop_assert!(micros > u32::MAX.into() || expected.max(bits) > u64::MAX.into());
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
