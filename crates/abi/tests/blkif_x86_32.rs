//! Slots of 32-bit guests, made native and back.

use cantle_abi::GrantRef;
use cantle_abi::io::blkif::{
    BLKIF_OP_DISCARD, BLKIF_OP_INDIRECT, BLKIF_OP_READ, BLKIF_OP_WRITE, BlkifRequest,
    BlkifRequestDiscard, BlkifRequestIndirect, BlkifResponse, BlkifX86_32Request,
    BlkifX86_32RequestDiscard, BlkifX86_32RequestIndirect, BlkifX86_32Response,
};
use proptest::prelude::*;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// A slot as a 32-bit guest writes it, each byte its own offset but for the operation.
fn numbered(operation: u8) -> BlkifX86_32Request {
    let mut bytes: [u8; 108] = std::array::from_fn(|at| u8::try_from(at).unwrap_or_default());
    bytes[0] = operation;
    BlkifX86_32Request::read_from_bytes(&bytes).expect("it is as long")
}

#[test]
fn a_read_of_a_32_bit_guest_is_found_at_its_places() {
    let request = BlkifRequest::from(numbered(BLKIF_OP_READ));
    assert_eq!(request.operation, BLKIF_OP_READ);
    assert_eq!((request.nr_segments, request.handle), (1, 0x0302));
    assert_eq!(request.id, 0x0b0a_0908_0706_0504);
    assert_eq!(request.sector_number, 0x1312_1110_0f0e_0d0c);
    assert_eq!(request.seg[0].gref, GrantRef(0x1716_1514));
    assert_eq!(request.seg[10].gref, GrantRef(0x6766_6564));
    let last = request.seg[10];
    assert_eq!((last.first_sect, last.last_sect), (0x68, 0x69));
}

#[test]
fn a_discard_of_a_32_bit_guest_is_found_at_its_places() {
    let request = BlkifRequest::from(numbered(BLKIF_OP_DISCARD)).to_discard();
    let expected = BlkifRequestDiscard {
        operation: BLKIF_OP_DISCARD,
        flag: 1,
        handle: 0x0302,
        pad: 0,
        id: 0x0b0a_0908_0706_0504,
        sector_number: 0x1312_1110_0f0e_0d0c,
        nr_sectors: 0x1b1a_1918_1716_1514,
    };
    assert_eq!(request, expected);
}

#[test]
fn an_indirect_request_of_a_32_bit_guest_is_found_at_its_places() {
    let request = BlkifRequest::from(numbered(BLKIF_OP_INDIRECT)).to_indirect();
    let expected = BlkifRequestIndirect {
        operation: BLKIF_OP_INDIRECT,
        indirect_op: 1,
        nr_segments: 0x0302,
        pad: 0,
        id: 0x0b0a_0908_0706_0504,
        sector_number: 0x1312_1110_0f0e_0d0c,
        handle: 0x1514,
        pad2: 0,
        indirect_grefs: std::array::from_fn(|page| {
            let at = u32::try_from(24 + 4 * page).unwrap_or_default();
            GrantRef(at * 0x0101_0101 + 0x0302_0100)
        }),
        pad3: 0,
    };
    assert_eq!(request, expected);
}

#[test]
fn a_response_to_a_32_bit_guest_has_no_padding_of_ours() {
    let response = BlkifResponse {
        id: 0x0807_0605_0403_0201,
        operation: 9,
        pad: 0xee,
        status: -2,
        pad2: 0xeeee_eeee,
    };
    let response = BlkifX86_32Response::from(response);
    assert_eq!(
        response.as_bytes(),
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0xfe, 0xff]
    );
}

#[test]
fn a_slot_gives_back_what_was_put_in() {
    let mut discard = BlkifRequestDiscard::new_zeroed();
    discard.as_mut_bytes().fill(0xa5);
    assert_eq!(BlkifRequest::from(discard).to_discard(), discard);
    let mut indirect = BlkifRequestIndirect::new_zeroed();
    indirect.as_mut_bytes().fill(0x5a);
    assert_eq!(BlkifRequest::from(indirect).to_indirect(), indirect);
}

proptest! {
    #[test]
    fn a_32_bit_slot_survives_the_native_one(bytes in prop::collection::vec(any::<u8>(), 108), operation in 0_u8..8) {
        let mut slot = BlkifX86_32Request::read_from_bytes(&bytes).expect("it is as long");
        slot.operation = operation;
        let native = BlkifRequest::from(slot);
        prop_assert_eq!((native.operation, native.id), (operation, slot.id.get()));
        prop_assert_eq!(native.sector_number, slot.sector_number.get());
        let again = BlkifX86_32Request::from(native);
        let (slot, again) = (slot.as_bytes(), again.as_bytes());
        match operation {
            BLKIF_OP_DISCARD => {
                let len = size_of::<BlkifX86_32RequestDiscard>();
                prop_assert_eq!(&again[..len], &slot[..len]);
                prop_assert!(again[len..].iter().all(|byte| *byte == 0));
            }
            BLKIF_OP_INDIRECT => {
                // Its padding is not carried over.
                let len = size_of::<BlkifX86_32RequestIndirect>() - 8;
                prop_assert_eq!(&again[..22], &slot[..22]);
                prop_assert_eq!(&again[24..len], &slot[24..len]);
                prop_assert!(again[len..].iter().all(|byte| *byte == 0));
            }
            _ => prop_assert_eq!(again, slot),
        }
    }

    #[test]
    fn a_32_bit_response_survives_the_native_one(id: u64, operation in BLKIF_OP_READ..=BLKIF_OP_WRITE, status: i16) {
        let response = BlkifX86_32Response { id: id.into(), operation, pad: 0, status };
        prop_assert_eq!(BlkifX86_32Response::from(BlkifResponse::from(response)), response);
    }
}
