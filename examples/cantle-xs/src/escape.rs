//! Values as text: the escapes of xenstore-utils.

/// A value's bytes as printable ASCII.
pub(crate) fn escape(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            b'\t' => text.push_str("\\t"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            // Octal below 8, hexadecimal above: so did the program whose output this has to equal.
            0..=7 => text.push_str(&format!("\\{byte:03o}")),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

/// The bytes that a text stands for. A backslash before anything else stands for what follows it; one at the end, for NUL.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut value = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            value.push(*byte);
            continue;
        }
        let (byte, after) = match rest.split_first() {
            None => (0, rest),
            Some((b't', after)) => (b'\t', after),
            Some((b'n', after)) => (b'\n', after),
            Some((b'r', after)) => (b'\r', after),
            Some((b'0'..=b'7', _)) => number(rest, 8, 3),
            Some((b'x', after)) if digits(after, 16, 2) > 0 => number(after, 16, 2),
            Some((other, after)) => (*other, after),
        };
        value.push(byte);
        rest = after;
    }
    value
}

/// How many digits `text` begins with, up to `most`.
fn digits(text: &[u8], radix: u32, most: usize) -> usize {
    text.iter()
        .take(most)
        .take_while(|byte| char::from(**byte).is_digit(radix))
        .count()
}

/// The number that `text` begins with, and what follows it; of one above 255, what is left in a byte.
fn number(text: &[u8], radix: u32, most: usize) -> (u8, &[u8]) {
    let (found, rest) = text.split_at(digits(text, radix, most));
    let found = found
        .iter()
        .filter_map(|byte| char::from(*byte).to_digit(radix));
    let value = found.fold(0, |value, digit| value * radix + digit);
    (u8::try_from(value & 0xff).unwrap_or(0), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unescape(&escape(&all)), all);
        assert_eq!(escape(b"a\x01\x0b\\\n\xff"), "a\\001\\x0b\\\\\\n\\xff");
    }

    #[test]
    fn escapes_that_none_prints_are_taken_as_xenstore_write_takes_them() {
        assert_eq!(unescape(r"\x4"), b"\x04");
        assert_eq!(unescape(r"\x4g"), b"\x04g");
        assert_eq!(unescape(r"\xg"), b"xg");
        assert_eq!(unescape(r"\1019"), b"A9");
        assert_eq!(unescape(r"\777"), b"\xff");
        assert_eq!(unescape(r"\q\"), b"q\0");
        assert_eq!(unescape("é\\té"), "é\té".as_bytes());
    }
}
