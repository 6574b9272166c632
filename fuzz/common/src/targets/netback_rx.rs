//! Frames for a guest, with metadata that is anything, against a front end of any kind.

use arbitrary::Arbitrary;
use cantle_abi::io::netif::NETRXF_csum_blank;
use cantle_netback::BackendOptions;
use cantle_netback::test_utils::{FrontOptions, Shape, TestDevice, Vif, settle};
use cantle_netport::headers::{self, IpVersion};
use cantle_netport::test_utils::Recorded;
use cantle_netport::{Checksum, Gso, GsoKind, Offload};

use crate::input::{self, Odd};

#[derive(Arbitrary, Debug)]
enum Action {
    /// Bytes, and what is said of them.
    Raw(Vec<u8>, Said),
    /// A packet with sound headers, its payload's length, and what is said of it.
    Packet(bool, Odd, Said),
    Process,
    Post(u8),
    Take,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Said {
    /// Sound, for the packet.
    right: bool,
    blank: Option<(Odd, Odd)>,
    gso: Option<(bool, Odd, Odd)>,
}

/// Runs one input: what the front end takes and whether the port is read, then frames.
///
/// # Panics
///
/// Where the front end gets what it has not said that it takes.
pub fn run(data: &[u8]) {
    let Some((&[features, more], rest)) = data.split_first_chunk() else {
        return;
    };
    let bit = |n: u8| features & (1 << n) != 0;
    let options = FrontOptions {
        sg: !bit(0),
        gso_v4: !bit(1),
        gso_v6: !bit(2),
        gso_v4_prefix: bit(3),
        gso_v6_prefix: bit(4),
        csum_v4: !bit(5),
        csum_v6: !bit(6),
        split_channels: bit(7),
        headroom: u16::from(more / 2) * 16,
        buffers: 64,
        rx_buffers: 64,
        ..FrontOptions::default()
    };
    let device = if more & 1 == 0 {
        TestDevice::pulled(1)
    } else {
        TestDevice::pushed(1)
    };
    let mut vif = Vif::connect(device, BackendOptions::default(), &options);
    for action in input::actions(rest) {
        match action {
            Action::Raw(bytes, said) => {
                let offload = said.offload(None);
                vif.device.inject(0, Recorded { bytes, offload });
            }
            Action::Packet(v6, len, said) => {
                let version = if v6 { IpVersion::V6 } else { IpVersion::V4 };
                let shape = Shape::tcp(version, vec![3; usize::from(len.half()) % 60_000]);
                let offload = said.offload(Some(&shape));
                let bytes = shape.build(said.right);
                vif.device.inject(0, Recorded { bytes, offload });
            }
            Action::Process => assert!(settle(&mut vif.backend)),
            Action::Post(count) => vif.front.post(count.into()),
            Action::Take => check(&mut vif, &options),
        }
    }
    settle(&mut vif.backend);
    check(&mut vif, &options);
}

fn check(vif: &mut Vif, options: &FrontOptions) {
    for packet in vif.front.receive() {
        assert!(!packet.error);
        assert_eq!(packet.offset, given(options.headroom));
        assert!(packet.bytes.len() >= 14);
        if packet.flags & NETRXF_csum_blank != 0 {
            let found = headers::transport(&packet.bytes).expect("it is to be found");
            let takes = match found.version {
                IpVersion::V4 => options.csum_v4,
                IpVersion::V6 => options.csum_v6,
            };
            assert!(takes);
        }
        let large = packet.gso.is_some() || packet.prefix.is_some();
        assert!(!large || (options.sg && packet.flags & NETRXF_csum_blank != 0));
    }
}

/// More than half a page is as good as none.
fn given(headroom: u16) -> u16 {
    if headroom > 2048 { 0 } else { headroom }
}

impl Said {
    fn offload(self, shape: Option<&Shape>) -> Offload {
        let sound = shape.filter(|_| self.right);
        let checksum = match (sound, self.blank) {
            (Some(shape), _) => Checksum::Blank {
                start: u16::try_from(shape.start()).unwrap_or(0),
                offset: 16,
            },
            (None, Some((start, offset))) => Checksum::Blank {
                start: start.half(),
                offset: offset.half(),
            },
            (None, None) => Checksum::Present,
        };
        let gso = self.gso.map(|(v6, size, header_len)| {
            let v6 = sound.map_or(v6, |shape| shape.version == IpVersion::V6);
            Gso {
                kind: if v6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 },
                size: size.half(),
                header_len: header_len.half(),
                ecn: false,
            }
        });
        Offload { checksum, gso }
    }
}
