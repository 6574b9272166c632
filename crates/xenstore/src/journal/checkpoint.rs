//! The files of a journal's folder: their names, and what makes a checkpoint whole.
//!
//! A checkpoint is a migration stream with a trailer behind its `END`, so that whoever reads the stream finds it as any other.

/// What a trailer begins with.
const IDENT: &[u8; 8] = b"cantlexc";
/// Ident, generation (`u64`), checksum of the stream (`u32`), zero (`u32`).
const TRAILER: usize = 24;

/// A file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    /// The state at the beginning of the journal of the same generation.
    Checkpoint(u64),
    /// A checkpoint that is being written.
    Unfinished(u64),
    /// What has happened since the checkpoint of the same generation.
    Journal(u64),
}

impl Name {
    /// From a file's name; `None` for one that is not of the journal.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (digits, kind) = name.split_once('.')?;
        let generation = digits.parse().ok()?;
        let found = match kind {
            "checkpoint" => Self::Checkpoint(generation),
            "unfinished" => Self::Unfinished(generation),
            "journal" => Self::Journal(generation),
            _ => return None,
        };
        (found.to_string() == name).then_some(found)
    }

    pub(super) fn generation(self) -> u64 {
        match self {
            Self::Checkpoint(generation)
            | Self::Unfinished(generation)
            | Self::Journal(generation) => generation,
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            Self::Checkpoint(_) => "checkpoint",
            Self::Unfinished(_) => "unfinished",
            Self::Journal(_) => "journal",
        };
        write!(f, "{:08}.{kind}", self.generation())
    }
}

/// Appends the trailer to a stream.
pub(super) fn finish(stream: &mut Vec<u8>, generation: u64) {
    let crc = crc32fast::hash(stream);
    stream.extend_from_slice(IDENT);
    stream.extend_from_slice(&generation.to_le_bytes());
    stream.extend_from_slice(&u64::from(crc).to_le_bytes());
}

/// The stream of a checkpoint's file; `None` where it is not what was once written.
pub(super) fn open(file: &[u8], generation: u64) -> Option<&[u8]> {
    let (stream, trailer) = file.split_at_checked(file.len().checked_sub(TRAILER)?)?;
    let crc = crc32fast::hash(stream);
    let expected = [
        &IDENT[..],
        &generation.to_le_bytes(),
        &u64::from(crc).to_le_bytes(),
    ]
    .concat();
    (trailer == expected).then_some(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [
            Name::Checkpoint(0),
            Name::Unfinished(3),
            Name::Journal(123_456_789_012),
        ] {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        for other in [
            "lock",
            "3.journal",
            "00000003.journal.bak",
            "+0000003.journal",
            "x.journal",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_checkpoint_is_whole_or_none() {
        let mut file = b"what the stream is, is not its business".to_vec();
        let len = file.len();
        finish(&mut file, 5);
        assert_eq!(open(&file, 5), file.get(..len));
        assert_eq!(open(&file, 6), None);
        for at in 0..file.len() {
            let mut broken = file.clone();
            broken[at] ^= 1;
            assert_eq!(open(&broken, 5), None);
            assert_eq!(open(&file[..at], 5), None);
        }
    }
}
