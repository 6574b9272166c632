//! Frames of every shape, and the checksums in them by the plainest of means.

use crate::headers::{IpVersion, Protocol};

/// The shape of a frame with a transport header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// VLAN tags: 0 to 2.
    pub vlans: usize,
    /// Which IP.
    pub version: IpVersion,
    /// IPv4: words of options (0 to 10). IPv6: hop-by-hop and destination options (0 to 10 of them, 8 bytes each).
    pub options: usize,
    /// Which protocol.
    pub protocol: Protocol,
    /// TCP: words of options (0 to 10).
    pub tcp_options: usize,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Shape {
    /// Plain TCP over an IP without options.
    #[must_use]
    pub fn tcp(version: IpVersion, payload: Vec<u8>) -> Self {
        Self {
            vlans: 0,
            version,
            options: 0,
            protocol: Protocol::Tcp,
            tcp_options: 0,
            payload,
        }
    }

    /// Where the transport header starts.
    #[must_use]
    pub fn start(&self) -> usize {
        let ip = match self.version {
            IpVersion::V4 => 20 + self.options * 4,
            IpVersion::V6 => 40 + self.options * 8,
        };
        14 + self.vlans * 4 + ip
    }

    /// Where the checksum field is, from `start`.
    #[must_use]
    pub fn checksum_offset(&self) -> usize {
        match self.protocol {
            Protocol::Tcp => 16,
            Protocol::Udp => 6,
        }
    }

    /// The frame, with its checksum complete, or left blank with the pseudo-header's sum in its place.
    ///
    /// # Panics
    ///
    /// For a payload that makes the packet longer than 65535 bytes.
    #[must_use]
    pub fn build(&self, blank: bool) -> Vec<u8> {
        let transport = self.transport();
        let len = u16::try_from(transport.len()).expect("at most 65535 bytes");
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in 0..self.vlans {
            frame.extend([0x81, 0, 0, u8::try_from(tag).expect("two tags") + 5]);
        }
        let protocol = self.protocol_number();
        match self.version {
            IpVersion::V4 => self.ipv4(&mut frame, protocol, len),
            IpVersion::V6 => self.ipv6(&mut frame, protocol, len),
        }
        frame.extend(transport);
        let (start, field) = (self.start(), self.start() + self.checksum_offset());
        let pseudo = self.pseudo_sum(&frame);
        frame[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        if !blank {
            let sum = match !checksum_of(&frame[start..]) {
                0 => 0xffff,
                sum => sum,
            };
            frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        frame
    }

    fn protocol_number(&self) -> u8 {
        match self.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }

    fn ipv4(&self, frame: &mut Vec<u8>, protocol: u8, len: u16) {
        frame.extend([8, 0]);
        let words = u8::try_from(5 + self.options).expect("at most 10 words of options");
        let total = (u16::from(words) * 4).saturating_add(len);
        let at = frame.len();
        frame.extend([0x40 | words, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([
            0x12, 0x34, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.extend(std::iter::repeat_n(1, self.options * 4));
        let sum = !checksum_of(&frame[at..]);
        frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    }

    fn ipv6(&self, frame: &mut Vec<u8>, protocol: u8, len: u16) {
        frame.extend([0x86, 0xdd]);
        let extensions = u16::try_from(self.options * 8).expect("few extensions");
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(len.saturating_add(extensions).to_be_bytes());
        // Hop-by-hop options may only come first; destination options follow.
        let kinds = (0..self.options).map(|n| if n == 0 { 0 } else { 60 });
        let mut kinds = kinds.chain([protocol]);
        frame.extend([kinds.next().unwrap_or(protocol), 64]);
        for address in [1, 2] {
            frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, address]);
        }
        for next in kinds {
            frame.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
    }

    fn transport(&self) -> Vec<u8> {
        let mut header = vec![0x30, 0x39, 0, 80];
        match self.protocol {
            Protocol::Tcp => {
                let words = u8::try_from(5 + self.tcp_options).expect("at most 10 words");
                header.extend([
                    0,
                    0,
                    0,
                    1,
                    0,
                    0,
                    0,
                    2,
                    words << 4,
                    0x18,
                    0xff,
                    0xff,
                    0,
                    0,
                    0,
                    0,
                ]);
                header.extend(std::iter::repeat_n(1, self.tcp_options * 4));
            }
            Protocol::Udp => {
                let len = u16::try_from(8 + self.payload.len()).expect("at most 65535 bytes");
                header.extend(len.to_be_bytes());
                header.extend([0, 0]);
            }
        }
        header.extend(&self.payload);
        header
    }

    /// The pseudo-header's sum.
    fn pseudo_sum(&self, frame: &[u8]) -> u16 {
        let ip = 14 + self.vlans * 4;
        let addresses = match self.version {
            IpVersion::V4 => &frame[ip + 12..ip + 20],
            IpVersion::V6 => &frame[ip + 8..ip + 40],
        };
        let len = u16::try_from(frame.len() - self.start()).expect("at most 65535 bytes");
        let mut pseudo = addresses.to_vec();
        pseudo.extend([0, self.protocol_number()]);
        pseudo.extend(len.to_be_bytes());
        checksum_of(&pseudo)
    }
}

/// RFC 1071 as it is written: the one's complement sum of 16-bit words, not inverted.
#[must_use]
pub fn checksum_of(bytes: &[u8]) -> u16 {
    let mut total = 0_u32;
    for (at, byte) in bytes.iter().enumerate() {
        total += u32::from(*byte) << (8 * (1 - at % 2));
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap_or(u16::MAX)
}

/// The sum over a complete frame's transport part and pseudo-header: 0xffff where its checksum is right.
#[must_use]
pub fn transport_sum(shape: &Shape, frame: &[u8]) -> u16 {
    let pseudo = shape.pseudo_sum(frame);
    let mut all = pseudo.to_be_bytes().to_vec();
    all.extend(&frame[shape.start()..]);
    checksum_of(&all)
}
