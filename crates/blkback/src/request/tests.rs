use super::*;

use cantle_abi::io::blkif::{
    BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BlkifRequestDiscard, BlkifRequestIndirect,
};
use proptest::prelude::*;
use zerocopy::{FromZeros, IntoBytes};

const DISK: Geometry = Geometry {
    sectors: 1000,
    sector_size: 512,
    physical_sector_size: 512,
    secure_discard: false,
    discard_granularity: 4096,
    read_only: false,
    discard: true,
};

fn segment(gref: u32, first_sect: u8, last_sect: u8) -> BlkifRequestSegment {
    BlkifRequestSegment {
        gref: GrantRef(gref),
        first_sect,
        last_sect,
        pad: 0xaaaa,
    }
}

/// A write of 8 + 2 sectors at 990: just on the disk.
fn good() -> BlkifRequest {
    let mut slot = BlkifRequest::new_zeroed();
    slot.operation = BLKIF_OP_WRITE;
    slot.nr_segments = 2;
    slot.id = 0x1122_3344_5566_7788;
    slot.sector_number = 990;
    slot.seg[0] = segment(5, 0, 7);
    slot.seg[1] = segment(6, 3, 4);
    slot
}

const ALL: Offered = Offered {
    barrier: false,
    discard: true,
    indirect_segments: 0,
};

fn parse(slot: &BlkifRequest, disk: &Geometry) -> Result<Request, RequestError> {
    assert!(!matches!(Indirect::parse(slot, &ALL), Ok(Some(_))));
    let mut request = Request::default();
    request.parse(slot, None, disk, &ALL)?;
    Ok(request)
}

fn broken(break_it: impl FnOnce(&mut BlkifRequest)) -> RequestError {
    let mut slot = good();
    break_it(&mut slot);
    parse(&slot, &DISK).unwrap_err()
}

#[test]
fn good_request_is_what_it_says() {
    let request = parse(&good(), &DISK).unwrap();
    assert_eq!(request.id, 0x1122_3344_5566_7788);
    assert_eq!((request.command, request.sector), (Command::Write, 990));
    let parts = [(5, 0, 4096), (6, 1536, 1024)].map(|(gref, offset, len)| PagePart {
        gref: GrantRef(gref),
        offset,
        len,
    });
    assert_eq!(request.parts(), parts);
}

#[test]
fn each_broken_field_is_refused() {
    for operation in [BLKIF_OP_WRITE_BARRIER, 4, BLKIF_OP_INDIRECT, 7, 255] {
        let error = broken(|r| r.operation = operation);
        assert_eq!(error, RequestError::Unsupported { operation });
        assert_eq!(status(Err(error)), BLKIF_RSP_EOPNOTSUPP);
    }
    for count in [0, 12, 255] {
        let error = broken(|r| r.nr_segments = count);
        assert_eq!(error, RequestError::SegmentCount(count.into()));
        assert_eq!(status(Err(error)), BLKIF_RSP_ERROR);
    }
    for (first, last) in [(5, 4), (0, 8), (8, 8), (255, 255), (7, 0)] {
        let error = broken(|r| r.seg[1] = segment(6, first, last));
        assert_eq!(error, RequestError::Segment { first, last });
    }
    for sector in [991, 1000, u64::MAX, u64::MAX - 9] {
        let error = broken(|r| r.sector_number = sector);
        assert_eq!(error, RequestError::OutOfRange { sector, count: 10 });
    }
}

#[test]
fn segments_that_do_not_count_are_not_looked_at() {
    let mut slot = good();
    slot.seg[2] = segment(0, 9, 1);
    assert_eq!(parse(&slot, &DISK).unwrap().parts().len(), 2);
}

#[test]
fn read_only_disk_refuses_what_would_change_it() {
    let disk = Geometry {
        read_only: true,
        ..DISK
    };
    let parse = |operation, segments| {
        let mut slot = good();
        slot.operation = operation;
        slot.nr_segments = segments;
        parse(&slot, &disk).map(|request| request.command)
    };
    assert_eq!(parse(BLKIF_OP_WRITE, 2), Err(RequestError::ReadOnly));
    assert_eq!(
        parse(BLKIF_OP_FLUSH_DISKCACHE, 2),
        Err(RequestError::ReadOnly)
    );
    assert_eq!(parse(BLKIF_OP_FLUSH_DISKCACHE, 0), Ok(Command::Flush));
    assert_eq!(parse(BLKIF_OP_READ, 2), Ok(Command::Read));
}

#[test]
fn a_flush_alone_has_no_place() {
    let mut slot = good();
    slot.operation = BLKIF_OP_FLUSH_DISKCACHE;
    slot.nr_segments = 0;
    slot.sector_number = u64::MAX;
    let request = parse(&slot, &DISK).unwrap();
    assert_eq!((request.command, request.sector), (Command::Flush, 0));
}

#[test]
fn discard_has_its_own_layout_and_limits() {
    let parse = |sector_number, nr_sectors, flag, disk: &Geometry| {
        let mut discard = BlkifRequestDiscard::new_zeroed();
        discard.operation = BLKIF_OP_DISCARD;
        discard.flag = flag;
        discard.sector_number = sector_number;
        discard.nr_sectors = nr_sectors;
        parse(&discard.into(), disk)
    };
    let request = parse(10, 990, 0, &DISK).unwrap();
    let command = |secure| Command::Discard {
        sectors: 990,
        secure,
    };
    assert_eq!(request.command, command(false));
    assert_eq!(request.sector, 10);
    let operation = BLKIF_OP_DISCARD;
    let unsupported = Err(RequestError::Unsupported { operation });
    assert_eq!(parse(10, 1, BLKIF_DISCARD_SECURE, &DISK), unsupported);
    for (sector, count) in [(10, 991), (0, 0), (u64::MAX, 1), (1, u64::MAX)] {
        let out = Err(RequestError::OutOfRange { sector, count });
        assert_eq!(parse(sector, count, 0, &DISK), out);
    }
    let fixed = Geometry {
        discard: false,
        ..DISK
    };
    assert_eq!(parse(10, 1, 0, &fixed), unsupported);
    let safe = Geometry {
        secure_discard: true,
        ..DISK
    };
    let request = parse(10, 990, BLKIF_DISCARD_SECURE, &safe).unwrap();
    assert_eq!(request.command, command(true));
}

#[test]
fn what_was_not_offered_is_not_there() {
    let everything = Offered {
        barrier: true,
        discard: false,
        indirect_segments: 256,
    };
    let parse = |operation| {
        let slot = BlkifRequest {
            operation,
            ..good()
        };
        let mut request = Request::default();
        request
            .parse(&slot, None, &DISK, &everything)
            .map(|()| request.command)
    };
    assert_eq!(parse(BLKIF_OP_WRITE_BARRIER), Ok(Command::Barrier));
    let operation = BLKIF_OP_DISCARD;
    assert_eq!(
        parse(operation),
        Err(RequestError::Unsupported { operation })
    );
}

fn indirect(op: u8, segments: u16) -> BlkifRequest {
    let mut request = BlkifRequestIndirect::new_zeroed();
    request.operation = BLKIF_OP_INDIRECT;
    request.indirect_op = op;
    request.nr_segments = segments;
    request.sector_number = 8;
    request.indirect_grefs[0] = GrantRef(77);
    request.into()
}

#[test]
fn an_indirect_request_has_as_many_segments_as_were_offered() {
    let offered = Offered {
        indirect_segments: 32,
        ..ALL
    };
    for wrong in [0, 33, 256, u16::MAX] {
        assert_eq!(
            Indirect::parse(&indirect(BLKIF_OP_READ, wrong), &offered),
            Err(RequestError::SegmentCount(wrong))
        );
    }
    let slot = indirect(BLKIF_OP_READ, 32);
    let page = GrantRef(77);
    let right = Indirect { page, segments: 32 };
    assert_eq!(Indirect::parse(&slot, &offered), Ok(Some(right)));
    let segments = [segment(1, 0, 7); 32];
    let mut request = Request::default();
    request
        .parse(&slot, Some(&segments), &DISK, &offered)
        .unwrap();
    assert_eq!((request.command, request.sector), (Command::Read, 8));
    assert_eq!(request.parts().len(), 32);
    for operation in [
        BLKIF_OP_FLUSH_DISKCACHE,
        BLKIF_OP_INDIRECT,
        BLKIF_OP_DISCARD,
    ] {
        let slot = indirect(operation, 32);
        assert_eq!(
            request.parse(&slot, Some(&segments), &DISK, &offered),
            Err(RequestError::Unsupported { operation })
        );
    }
}

#[test]
fn large_sectors_are_whole() {
    let disk = Geometry {
        sector_size: 4096,
        physical_sector_size: 4096,
        ..DISK
    };
    let ask = |sector_number, first, last| {
        let mut slot = good();
        slot.nr_segments = 1;
        slot.sector_number = sector_number;
        slot.seg[0] = segment(5, first, last);
        parse(&slot, &disk).map(|request| request.sector)
    };
    assert_eq!(ask(16, 0, 7), Ok(16));
    assert_eq!(
        ask(17, 0, 7),
        Err(RequestError::Misaligned {
            sector: 17,
            count: 8
        })
    );
    for (first, last) in [(0, 0), (1, 7), (0, 6)] {
        assert_eq!(
            ask(16, first, last),
            Err(RequestError::Segment { first, last })
        );
    }
}

proptest! {
    /// Whatever bytes a slot holds: no panic, and what passes is on the disk and in its pages.
    #[test]
    fn whatever_passes_is_safe(bytes in prop::array::uniform32(any::<[u8; 4]>()), op in 0_u8..8, near in 0_u64..1100, nr in 0_u8..14) {
        let mut slot = BlkifRequest::new_zeroed();
        let raw = slot.as_mut_bytes();
        let len = raw.len();
        raw.copy_from_slice(&bytes.as_flattened()[..len]);
        slot.operation = op;
        slot.sector_number = near;
        slot.nr_segments = nr;
        for segment in &mut slot.seg {
            segment.first_sect %= 9;
            segment.last_sect %= 9;
        }
        if let Ok(request) = parse(&slot, &DISK) {
            let mut sectors = 0;
            for part in request.parts() {
                prop_assert!(part.len > 0 && part.offset + part.len <= 4096);
                prop_assert!(part.len % 512 == 0 && part.offset % 512 == 0);
                sectors += u64::from(part.len) / 512;
            }
            if let Command::Discard { sectors: count, .. } = request.command {
                sectors = count;
            }
            prop_assert!(request.sector + sectors <= DISK.sectors);
        }
    }
}
