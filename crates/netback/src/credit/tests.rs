use std::num::{NonZeroU32, NonZeroU64};

use proptest::prelude::*;

use super::*;

fn rate(bytes: u64, micros: u32) -> Rate {
    Rate::new(
        NonZeroU64::new(bytes).unwrap(),
        NonZeroU32::new(micros).unwrap(),
    )
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn without_a_limit_everything_passes() {
    let credit = Credit::new(None);
    let now = Instant::now();
    assert_eq!(credit.rate(), None);
    for _ in 0..1000 {
        assert_eq!(credit.take(now, usize::MAX), Ok(()));
    }
}

#[test]
fn a_bucket_passes_at_once_and_then_the_rate() {
    // 1 MB/s, 100,000 bytes at once.
    let start = Instant::now();
    let credit = Credit::new(Some(rate(100_000, 100_000)));
    for _ in 0..100 {
        assert_eq!(credit.take(start, 1000), Ok(()));
    }
    // All is spent: a millisecond's worth has to be there.
    assert_eq!(credit.take(start, 1000), Err(start + ms(1)));
    // Any credit is enough, and what is missing then is waited for.
    assert_eq!(credit.take(start + Duration::from_micros(1), 1000), Ok(()));
    let again = credit.take(start + ms(1), 1000).unwrap_err();
    assert_eq!(again, start + ms(2));
    assert_eq!(credit.take(again, 1000), Ok(()));
}

#[test]
fn the_largest_packet_passes_at_the_lowest_rate() {
    let start = Instant::now();
    let credit = Credit::new(Some(rate(1, 1_000_000)));
    assert_eq!(credit.take(start, 65_535), Ok(()));
    assert_eq!(credit.take(start, 65_535), Ok(()));
    // One byte a second.
    let again = credit.take(start, 60).unwrap_err();
    let missing = 2 * 65_535 - 65_536;
    assert!(again > start + Duration::from_secs(missing));
    assert!(again <= start + Duration::from_secs(missing) + ms(1));
    assert_eq!(
        credit.take(start + Duration::from_secs(missing), 60),
        Err(again)
    );
    assert_eq!(credit.take(again, 60), Ok(()));
}

#[test]
fn a_limit_can_be_changed_while_packets_pass() {
    let start = Instant::now();
    let credit = Credit::new(None);
    credit.set_at(start, Some(rate(100_000, 100_000)));
    assert_eq!(credit.rate(), Some(rate(100_000, 100_000)));
    assert_eq!(credit.take(start, 200_000), Ok(()));
    // What is missing is missing still at ten times the rate, over another interval: 100,000 bytes at 10 MB/s.
    credit.set_at(start, Some(rate(500_000, 50_000)));
    assert_eq!(credit.take(start + ms(10), 1), Err(start + ms(11)));
    assert_eq!(credit.take(start + ms(11), 1), Ok(()));
    // What is left is left, up to what the new bucket holds.
    let later = start + Duration::from_secs(1);
    credit.set_at(later, Some(rate(70_000, 1_000_000)));
    assert_eq!(credit.take(later, 70_000), Ok(()));
    assert!(credit.take(later, 1).is_err());
    credit.set_at(later, None);
    assert_eq!(credit.take(later, 1), Ok(()));
    assert_eq!(credit.rate(), None);
    credit.set_at(later, Some(rate(1, 1)));
    assert_eq!(credit.take(later, 65_535), Ok(()));
}

#[test]
fn credit_earned_at_one_rate_is_not_lost_or_multiplied_by_another() {
    let start = Instant::now();
    let credit = Credit::new(Some(rate(200_000, 1_000_000)));
    assert_eq!(credit.take(start, 200_000), Ok(()));
    // Half a second: 100,000 bytes, whatever the rate is then.
    let half = start + ms(500);
    credit.set_at(half, Some(rate(1_000_000, 50_000)));
    assert_eq!(credit.take(half, 99_999), Ok(()));
    assert_eq!(credit.take(half, 1), Ok(()));
    assert!(credit.take(half, 1).is_err());
}

#[test]
fn time_that_goes_back_gives_nothing_twice() {
    let start = Instant::now();
    let credit = Credit::new(Some(rate(100_000, 100_000)));
    assert_eq!(credit.take(start + ms(100), 200_000), Ok(()));
    for n in [0, 50, 99, 100] {
        let again = credit.take(start + ms(n), 1);
        assert_eq!(again, Err(start + ms(201)));
    }
}

#[test]
fn numbers_at_the_ends_do_no_harm() {
    let start = Instant::now();
    let far = start + Duration::from_secs(1 << 40);
    for rate in [
        rate(u64::MAX, u32::MAX),
        rate(u64::MAX, 1),
        rate(1, u32::MAX),
        rate(1, 1),
    ] {
        let credit = Credit::new(Some(rate));
        assert_eq!(credit.take(start, usize::MAX), Ok(()));
        if let Err(again) = credit.take(start, 0) {
            assert!(again > start);
        }
        let _ = credit.take(far, usize::MAX);
        if let Err(again) = credit.take(far, usize::MAX) {
            assert!(again > far);
        }
        credit.set_at(start, Some(rate));
    }
}

#[test]
fn who_asks_first_and_spends_later_fares_as_who_takes() {
    let start = Instant::now();
    let [one, two] = [(); 2].map(|()| Credit::new(Some(rate(100_000, 100_000))));
    let mut now = start;
    for n in 0..500 {
        let bytes = 60 + n * 131 % 9000;
        let ready = two.ready(now);
        assert_eq!(one.take(now, bytes), ready);
        match ready {
            Ok(()) => two.spend(now, bytes),
            Err(again) => now = again,
        }
    }
    // Spent without asking, it is missing all the same.
    two.spend(now, 1_000_000);
    assert!(two.ready(now + ms(1000)).is_err());
    assert_eq!(two.ready(now + ms(1101)), Ok(()));
    let unlimited = Credit::default();
    unlimited.spend(now, usize::MAX);
    assert_eq!(unlimited.ready(now), Ok(()));
}

/// Sizes of packets, and what else happens before each: nothing, or so many nanoseconds pass.
fn traffic() -> impl Strategy<Value = Vec<(usize, u64)>> {
    let size = prop_oneof![Just(60), Just(1514), Just(65_535), 1..65_536_usize];
    let pause = prop_oneof![4 => Just(0), 2 => 0..1_000_000_u64, 1 => 0..3_000_000_000_u64];
    prop::collection::vec((size, pause), 1..120)
}

/// From 20 B/s to 10 GB/s.
fn rates() -> impl Strategy<Value = Rate> {
    let interval = prop_oneof![Just(50_000), 1..2000_u32, 1..2_000_000_u32];
    let per_second = prop_oneof![20..100_000_u64, 100_000..10_000_000_000_u64];
    (per_second, interval).prop_map(|(per_second, interval)| {
        let bytes = u128::from(per_second) * u128::from(interval) / 1_000_000;
        rate(u64::try_from(bytes).unwrap().max(1), interval)
    })
}

/// Bytes times the interval, in nanoseconds.
fn area(bytes: usize, rate: Rate) -> i128 {
    i128::try_from(bytes).unwrap() * nanos(rate.interval())
}

proptest! {
    /// In every window: no more than a bucket, the rate, and one packet.
    #[test]
    fn no_window_has_more_than_the_rate_allows(
        rate in rates(),
        traffic in traffic(),
        waits: bool,
    ) {
        let start = Instant::now();
        let credit = Credit::new(Some(rate));
        let mut now = start;
        let mut passed: Vec<(Instant, usize)> = Vec::new();
        for (bytes, pause) in traffic {
            now += Duration::from_nanos(pause);
            match credit.take(now, bytes) {
                Ok(()) => passed.push((now, bytes)),
                Err(again) => {
                    prop_assert!(again > now);
                    if waits {
                        now = again;
                        prop_assert_eq!(credit.take(now, bytes), Ok(()));
                        passed.push((now, bytes));
                    }
                }
            }
        }
        let bucket = i128::from(rate.bytes().get().max(65_536)) * nanos(rate.interval());
        for (n, (from, _)) in passed.iter().enumerate() {
            let mut sum = 0;
            for (to, bytes) in passed.get(n..).unwrap() {
                let time = nanos(*to - *from) * i128::from(rate.bytes().get());
                // Before its last packet the window has less than a bucket and the rate.
                prop_assert!(sum < bucket + time, "{} in {:?}", sum, *to - *from);
                sum += area(*bytes, rate);
            }
        }
    }

    /// Who always has something to send, and goes on when told to, gets the whole rate.
    #[test]
    fn the_greedy_get_the_rate(
        rate in rates(),
        sizes in prop::collection::vec(prop_oneof![Just(60_usize), 1..65_536_usize], 1..20),
        sleeps in 1..60,
    ) {
        let start = Instant::now();
        let credit = Credit::new(Some(rate));
        // What a full bucket gives is not the rate's doing.
        let mut now = start;
        let mut passed = -(i128::from(rate.bytes().get().max(65_536)) * nanos(rate.interval()));
        let mut sizes = sizes.iter().cycle();
        let mut left = sleeps;
        let mut tries = 0;
        while left > 0 && tries < 100_000 {
            let bytes = *sizes.next().unwrap();
            tries += 1;
            match credit.take(now, bytes) {
                Ok(()) => passed += area(bytes, rate),
                Err(again) => {
                    let due = nanos(now - start) * i128::from(rate.bytes().get());
                    prop_assert!(passed >= due, "{} of {} bytes", passed, due);
                    prop_assert!(passed < due + area(65_536, rate));
                    now = again;
                    left -= 1;
                }
            }
        }
    }

    /// Against a bucket in whole numbers of another kind: what passes is what a plain simulation lets pass.
    #[test]
    fn a_packet_passes_when_any_credit_is_there(rate in rates(), traffic in traffic()) {
        let start = Instant::now();
        let credit = Credit::new(Some(rate));
        let (mut now, mut spent) = (0_i128, 0_i128);
        let bytes_per = i128::from(rate.bytes().get());
        let bucket = bytes_per.max(65_536) * nanos(rate.interval());
        for (bytes, pause) in traffic {
            let pause = i128::from(pause);
            now += pause;
            // What was spent is paid back as time passes, never below nothing.
            spent = (spent - pause * bytes_per).max(0);
            let at = start + Duration::from_nanos(u64::try_from(now).unwrap());
            let passes = spent < bucket;
            prop_assert_eq!(credit.take(at, bytes).is_ok(), passes);
            if passes {
                spent += area(bytes, rate);
            }
        }
    }
}
