//! What is found in packets, and made of them: headers, checksums, segments, and the form in which Linux passes offloads.

use arbitrary::{Arbitrary, Unstructured};
use cantle_netport::headers::{self, HEADERS_MAX};
use cantle_netport::segment::{SIZE_MIN, Segments, Sums};
use cantle_netport::{Checksum, Gso, GsoKind, Offload, checksum, vnet};

use crate::input::Odd;

#[derive(Arbitrary, Debug)]
struct Said {
    start: Odd,
    offset: Odd,
    size: Odd,
    v6: bool,
    blank: bool,
    header: [u8; vnet::VNET_HDR_LEN],
}

/// Runs one input: what is said of a frame, and the frame.
///
/// # Panics
///
/// Where something is found outside of the frame, or made larger than was said.
pub fn run(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let Ok(said) = Said::arbitrary(&mut bytes) else {
        return;
    };
    let frame = bytes.take_rest();
    look(frame);
    let offload = Offload {
        checksum: Checksum::Blank {
            start: said.start.half(),
            offset: said.offset.half(),
        },
        gso: Some(Gso {
            kind: if said.v6 {
                GsoKind::TcpV6
            } else {
                GsoKind::TcpV4
            },
            size: said.size.half(),
            header_len: said.offset.half(),
            ecn: said.blank,
        }),
    };
    let sums = if said.blank {
        Sums::Blank
    } else {
        Sums::Complete
    };
    cut(frame, &offload, sums);
    let mut copy = frame.to_vec();
    let place = usize::from(said.start.half()) + usize::from(said.offset.half());
    let completed = checksum::complete(&mut copy, said.start.half(), said.offset.half());
    assert!(!completed || place + 2 <= frame.len(), "a field at {place}");
    if let Some(parsed) = vnet::parse(&said.header) {
        assert_eq!(vnet::parse(&vnet::emit(&parsed)), Some(parsed));
    }
}

/// What is found lies in the frame, in its order, and in what is looked at.
fn look(frame: &[u8]) {
    let _ = headers::ip_version(frame);
    let Ok(found) = headers::transport(frame) else {
        return;
    };
    let payload = usize::from(found.payload);
    assert!(found.ip < found.start && found.start < found.payload);
    assert!(
        payload <= frame.len() && payload <= HEADERS_MAX,
        "{found:?}"
    );
    let mut headers = frame[..frame.len().min(HEADERS_MAX)].to_vec();
    let _ = checksum::begin(&mut headers, &found, frame.len());
    let field = usize::from(found.start) + usize::from(found.checksum_offset());
    assert!(field + 2 <= payload);
    assert_eq!(headers[..field], frame[..field], "only the sum is written");
}

/// The pieces' payloads are the frame's, and none is larger than was said.
fn cut(frame: &[u8], offload: &Offload, sums: Sums) {
    let Ok(mut segments) = Segments::new(frame, offload, sums) else {
        return;
    };
    let header = usize::from(headers::transport(frame).expect("it was found").payload);
    let most = segments.max_len();
    let mut buffer = vec![0; most];
    let mut payload = Vec::new();
    let mut count = 0;
    while let Some(len) = segments.next_into(&mut buffer) {
        assert!(len <= most && len >= header);
        payload.extend_from_slice(&buffer[header..len]);
        count += 1;
    }
    assert!(
        count <= frame.len() / usize::from(SIZE_MIN) + 1,
        "{count} pieces"
    );
    assert_eq!(payload, frame[header..]);
}
