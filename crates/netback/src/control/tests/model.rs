use proptest::prelude::*;

use super::*;

/// What the control ring should have made of hashing, worked out the plain way.
#[derive(Clone, Default)]
struct Model {
    toeplitz: bool,
    types: u32,
    mapping: Vec<u32>,
}

impl Model {
    fn ask(&mut self, kind: u16, [a, b, c]: [u32; 3], page: &[u32], granted: bool) -> (u32, u32) {
        match kind {
            1 if !self.toeplitz => return (NOT_SUPPORTED, 0),
            1 => return (SUCCESS, 15),
            2 if a > 15 || !self.toeplitz => return (INVALID_PARAMETER, 0),
            2 => self.types = a,
            3 if b > 40 => return (BUFFER_OVERFLOW, 0),
            3 if b > 0 && !granted => return (INVALID_PARAMETER, 0),
            3 => {}
            4 => return (SUCCESS, 128),
            5 if a > 128 => return (INVALID_PARAMETER, 0),
            5 => self.mapping = vec![0; usize::try_from(a).unwrap()],
            6 => {
                let (first, count) = (u64::from(c), u64::from(b));
                if first + count > 128 {
                    return (BUFFER_OVERFLOW, 0);
                }
                let range =
                    usize::try_from(first).unwrap()..usize::try_from(first + count).unwrap();
                let entries = page.iter().take(range.len());
                let good = granted && entries.clone().all(|queue| *queue < QUEUES);
                if range.end > self.mapping.len() || (count > 0 && !good) {
                    return (INVALID_PARAMETER, 0);
                }
                for (own, entry) in self.mapping[range].iter_mut().zip(entries) {
                    *own = *entry;
                }
            }
            7 if a > 1 => return (INVALID_PARAMETER, 0),
            7 => self.toeplitz = a == 1,
            _ => return (NOT_SUPPORTED, 0),
        }
        (SUCCESS, 0)
    }

    fn queue(&self, hash: u32) -> u32 {
        match self.mapping.len() {
            0 => hash % QUEUES,
            len => self.mapping[usize::try_from(hash).unwrap() % len],
        }
    }
}

/// Numbers near the limits, and any.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        6 => 0..8_u32,
        2 => 38..43_u32,
        3 => 120..132_u32,
        1 => (u32::MAX - 3)..=u32::MAX,
        1 => any::<u32>(),
    ]
}

proptest! {
    #[test]
    fn requests_are_answered_as_the_model_does(
        steps in prop::collection::vec(
            (0..9_u16, [number(), number(), number()], any::<bool>(), 0..30_u32, 0..6_u32),
            0..40,
        ),
    ) {
        let mut world = World::new(false);
        let mut model = Model::default();
        let mut reader = world.shared.reader();
        for (kind, mut data, granted, first, step) in steps {
            // Entries around the number of queues.
            let page: Vec<u32> = (0..128).map(|n| (first + n * step) / 40).collect();
            let bytes: Vec<u8> = page.iter().flat_map(|entry| entry.to_le_bytes()).collect();
            world.guest.write(world.page, 0, &bytes);
            if kind == 3 || kind == 6 {
                data[0] = if granted { world.readable.0 } else { 60_000 };
            }
            let expected = model.ask(kind, data, &page, granted);
            prop_assert_eq!(world.ask(kind, data), expected, "{} {:?}", kind, data);
            let config = reader.get();
            prop_assert_eq!(config.is_on(), model.toeplitz && model.types != 0);
            for hash in (0..130).chain([u32::MAX]) {
                prop_assert_eq!(queue_of(config, hash), usize::try_from(model.queue(hash)).unwrap());
            }
        }
    }

    /// Any request at all is answered, and what comes of it stays within bounds.
    #[test]
    fn any_request_has_an_answer(
        steps in prop::collection::vec((0..12_u16, any::<[u32; 3]>(), any::<[bool; 3]>()), 0..40),
        noise in prop::collection::vec(any::<u8>(), 4096),
    ) {
        let mut world = World::new(true);
        world.guest.write(world.page, 0, &noise);
        for (kind, mut data, small) in steps {
            for (word, small) in data.iter_mut().zip(small) {
                if small {
                    *word %= 600;
                }
            }
            if matches!(kind, 9 | 10) {
                data[0] %= QUEUES + 1;
                data[1] = world.writable.0;
            }
            let (status, _) = world.ask(kind, data);
            prop_assert!(status <= BUFFER_OVERFLOW);
            prop_assert!(queue_of(&world.shared.load(), data[2]) < usize::try_from(QUEUES).unwrap());
        }
    }
}
