//! Random sequences of requests against a plain model of a disk: a `Vec<u8>`.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and makes its own small numbers"
)]

use cantle_abi::PAGE_SIZE;
use cantle_abi::io::blkif::{
    BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_READ, BLKIF_OP_WRITE,
    BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY, BlkifRequest, BlkifRequestDiscard,
};
use cantle_blkback::image::{Caching, RawImage, RawOptions};
use cantle_blkback::test_utils::{BlkFront, Random, Transfer, World, copy_in, copy_out};
use proptest::prelude::*;
use zerocopy::{FromZeros, IntoBytes};

const SECTORS: u64 = 300;
const SECTOR: usize = 512;

/// One request, with segments that may lie anywhere in their pages, and may leave the disk.
#[derive(Clone, Debug)]
struct Step {
    operation: u8,
    sector: u64,
    /// First and last sector in each page.
    segments: Vec<(u8, u8)>,
    fill: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let operation = prop_oneof![
        4 => Just(BLKIF_OP_READ),
        4 => Just(BLKIF_OP_WRITE),
        1 => Just(BLKIF_OP_FLUSH_DISKCACHE),
        1 => Just(BLKIF_OP_DISCARD),
    ];
    let segment = (0_u8..8, 0_u8..8).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let segments = prop::collection::vec(segment, 1..=11);
    let step = (operation, 0..SECTORS + 10, segments, any::<u64>());
    let step = step.prop_map(|(operation, sector, segments, fill)| Step {
        operation,
        sector,
        segments,
        fill,
    });
    prop::collection::vec(step, 1..40)
}

impl Step {
    fn bytes(&self) -> usize {
        let sectors = self.segments.iter().map(|(a, b)| usize::from(b - a + 1));
        sectors.sum::<usize>() * SECTOR
    }

    fn request(&self, front: &BlkFront) -> BlkifRequest {
        let transfer = Transfer {
            operation: self.operation,
            sector: self.sector,
            bytes: self.segments.len() * PAGE_SIZE,
        };
        let mut request = front.request(0, &transfer);
        for (segment, (first, last)) in request.seg.iter_mut().zip(&self.segments) {
            (segment.first_sect, segment.last_sect) = (*first, *last);
        }
        if self.operation == BLKIF_OP_DISCARD {
            let mut discard = BlkifRequestDiscard::new_zeroed();
            discard.operation = BLKIF_OP_DISCARD;
            discard.sector_number = self.sector;
            discard.nr_sectors = (self.bytes() / SECTOR) as u64;
            let bytes = discard.as_bytes();
            request.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        }
        request
    }

    /// The segments' bytes in the slot's pages, in order.
    fn gather(&self, pages: &[[u8; PAGE_SIZE]]) -> Vec<u8> {
        let parts = pages.iter().zip(&self.segments);
        let bytes = parts
            .map(|(page, (a, b))| &page[usize::from(*a) * SECTOR..(usize::from(*b) + 1) * SECTOR]);
        bytes.collect::<Vec<_>>().concat()
    }
}

fn pages_of(front: &BlkFront) -> Vec<[u8; PAGE_SIZE]> {
    (0..11)
        .map(|n| {
            let mut page = [0; PAGE_SIZE];
            copy_out(&front.page(0, n).unwrap().memory, 0, &mut page);
            page
        })
        .collect()
}

fn run(steps: &[Step], caching: Caching) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut model = vec![0_u8; SECTORS as usize * SECTOR];
    let mut random = Random::new(1);
    model.fill_with(|| random.below(256) as u8);
    std::fs::write(file.path(), &model).unwrap();
    let options = RawOptions {
        caching,
        ..RawOptions::default()
    };
    let image = RawImage::open(file.path(), &options).unwrap();
    let world = World::new();
    let disk = world.serve(world.backend(Box::new(image)).unwrap());
    let mut front = world.front().unwrap();
    for step in steps {
        let mut random = Random::new(step.fill);
        for n in 0..11 {
            let byte = random.below(256) as u8;
            copy_in(&front.page(0, n).unwrap().memory, 0, &[byte; PAGE_SIZE]);
        }
        let before = pages_of(&front);
        let request = step.request(&front);
        let status = front.ask(&request).unwrap().status;
        let range = step.sector as usize * SECTOR..step.sector as usize * SECTOR + step.bytes();
        let after = pages_of(&front);
        let Some(on_disk) = model.get_mut(range) else {
            assert_eq!(status, BLKIF_RSP_ERROR, "{step:?}");
            assert!(
                before == after,
                "a refused request touched memory: {step:?}"
            );
            continue;
        };
        if step.operation == BLKIF_OP_DISCARD && status == BLKIF_RSP_EOPNOTSUPP {
            continue;
        }
        assert_eq!(status, BLKIF_RSP_OKAY, "{step:?}");
        match step.operation {
            BLKIF_OP_READ => {
                assert!(step.gather(&after) == on_disk, "{step:?}");
                // And nothing around the segments.
                let mut expected = before;
                for ((page, now), (a, b)) in expected.iter_mut().zip(&after).zip(&step.segments) {
                    let part = usize::from(*a) * SECTOR..(usize::from(*b) + 1) * SECTOR;
                    page[part.clone()].copy_from_slice(&now[part]);
                }
                assert!(expected == after, "{step:?}");
            }
            BLKIF_OP_DISCARD => on_disk.fill(0),
            // A flush with segments writes them.
            _ => on_disk.copy_from_slice(&step.gather(&before)),
        }
    }
    front.close().unwrap();
    disk.stop().1.unwrap();
    assert!(
        std::fs::read(file.path()).unwrap() == model,
        "the file is the model"
    );
    let table = world.guest().table().stats();
    assert_eq!(table.maps, table.unmaps);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn disk_is_its_model(steps in steps()) {
        run(&steps, Caching::Buffered);
    }

    #[test]
    fn direct_disk_is_its_model(steps in steps()) {
        run(&steps, Caching::DirectIfPossible);
    }
}
