//! Frames: pieces of a journal that are there as a whole or not at all.

/// What a journal's file begins with: this, its version and its generation.
const IDENT: &[u8; 8] = b"cantlexj";
/// The version of the form.
const VERSION: u32 = 1;
/// The length of a file's header: ident, version, zero (`u32`), generation (`u64`).
pub(super) const FILE_HEADER: usize = 24;
/// The length of a frame's header: length and checksum of the body, number in the file, checksum of these twelve bytes.
pub(super) const FRAME_HEADER: usize = 16;

/// A file's header.
pub(super) fn file_header(generation: u64) -> [u8; FILE_HEADER] {
    let mut header = [0; FILE_HEADER];
    let (ident, rest) = header.split_at_mut(8);
    let (version, generations) = rest.split_at_mut(8);
    ident.copy_from_slice(IDENT);
    version.copy_from_slice(&u64::from(VERSION).to_le_bytes());
    generations.copy_from_slice(&generation.to_le_bytes());
    header
}

/// Begins a frame in an empty buffer: the body is to be appended, then [`seal`] called.
pub(super) fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.resize(FRAME_HEADER, 0);
}

/// Fills in the header of a frame that was [begun](begin). `None` where the body is too long for one.
pub(super) fn seal(frame: &mut [u8], number: u32) -> Option<()> {
    let (header, body) = frame.split_first_chunk_mut::<FRAME_HEADER>()?;
    let len = u32::try_from(body.len()).ok()?;
    header.copy_from_slice(&head(len, crc32fast::hash(body), number));
    Some(())
}

fn head(len: u32, crc: u32, number: u32) -> [u8; FRAME_HEADER] {
    let mut head = [0; FRAME_HEADER];
    let (fields, check) = head.split_at_mut(12);
    for (field, value) in fields.chunks_exact_mut(4).zip([len, crc, number]) {
        field.copy_from_slice(&value.to_le_bytes());
    }
    check.copy_from_slice(&crc32fast::hash(fields).to_le_bytes());
    head
}

/// What is in a journal's file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frames<'a> {
    /// The bodies of the whole frames, each with its place in the file.
    pub(super) bodies: Vec<(usize, &'a [u8])>,
    /// Where the last whole frame ends; 0 where not even the file's header is whole.
    pub(super) whole: usize,
    /// Where something is that was never written so.
    pub(super) corrupt: Option<usize>,
}

impl<'a> Frames<'a> {
    /// Reads a file.
    ///
    /// Whoever is killed within a write leaves the beginning of what he wanted to write: a file that ends within a frame is
    /// no fault, it is just not whole. A checksum that is wrong is a fault, for no kill leaves one. The one exception are zeroes up to
    /// the end, which some file systems leave after a loss of power.
    pub(super) fn parse(file: &'a [u8], generation: u64) -> Self {
        let mut frames = Self {
            bodies: Vec::new(),
            whole: 0,
            corrupt: None,
        };
        let header = file_header(generation);
        let Some((found, mut rest)) = file.split_first_chunk::<FILE_HEADER>() else {
            if !header.starts_with(file) && !zeroes(file) {
                frames.corrupt = Some(0);
            }
            return frames;
        };
        if *found != header {
            if !zeroes(file) {
                frames.corrupt = Some(0);
            }
            return frames;
        }
        frames.whole = FILE_HEADER;
        while let Some((found, after)) = rest.split_first_chunk::<FRAME_HEADER>() {
            let [len, crc, number, _] = fields(found);
            let expected = u32::try_from(frames.bodies.len()).unwrap_or(u32::MAX);
            if *found != head(len, crc, number) || number != expected {
                if !zeroes(rest) {
                    frames.corrupt = Some(frames.whole);
                }
                return frames;
            }
            let Some((body, after)) = usize::try_from(len)
                .ok()
                .and_then(|len| after.split_at_checked(len))
            else {
                return frames;
            };
            if crc32fast::hash(body) != crc {
                frames.corrupt = Some(frames.whole);
                return frames;
            }
            frames.bodies.push((frames.whole + FRAME_HEADER, body));
            frames.whole += FRAME_HEADER + body.len();
            rest = after;
        }
        frames
    }
}

fn fields(header: &[u8; FRAME_HEADER]) -> [u32; 4] {
    let mut fields = [0; 4];
    for (field, bytes) in fields.iter_mut().zip(header.chunks_exact(4)) {
        *field = bytes.try_into().map_or(0, u32::from_le_bytes);
    }
    fields
}

fn zeroes(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut file = file_header(7).to_vec();
        let mut frame = Vec::new();
        for (number, body) in (0..).zip(bodies) {
            begin(&mut frame);
            frame.extend_from_slice(body);
            seal(&mut frame, number).unwrap();
            file.extend_from_slice(&frame);
        }
        file
    }

    fn bodies() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..6)
    }

    proptest! {
        #[test]
        fn a_file_cut_anywhere_gives_the_frames_before(bodies in bodies(), cut in any::<prop::sample::Index>()) {
            let file = file(&bodies);
            let cut = cut.index(file.len() + 1);
            let frames = Frames::parse(&file[..cut], 7);
            prop_assert_eq!(frames.corrupt, None);
            prop_assert!(frames.whole <= cut);
            let found: Vec<&[u8]> = frames.bodies.iter().map(|(_, body)| *body).collect();
            prop_assert_eq!(&found[..], &bodies.iter().map(Vec::as_slice).collect::<Vec<_>>()[..found.len()]);
            let next = bodies.get(found.len()).map(|body| FRAME_HEADER + body.len());
            prop_assert!(next.is_none_or(|next| cut < frames.whole.max(FILE_HEADER) + next));
        }

        #[test]
        fn a_changed_byte_is_a_fault_or_in_a_length_that_goes_too_far(bodies in bodies(), at in any::<prop::sample::Index>(), xor in 1..=255_u8) {
            let mut file = file(&bodies);
            let at = at.index(file.len());
            file[at] ^= xor;
            let frames = Frames::parse(&file, 7);
            prop_assert!(frames.corrupt.is_some_and(|corrupt| corrupt <= at));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Frames::parse(&bytes, 7);
            let _ = Frames::parse(&[&file_header(7)[..], &bytes].concat(), 7);
        }
    }

    #[test]
    fn zeroes_at_the_end_are_cut_off() {
        let mut file = file(&[vec![1, 2, 3]]);
        let whole = file.len();
        file.resize(whole + 100, 0);
        let frames = Frames::parse(&file, 7);
        assert_eq!((frames.whole, frames.corrupt), (whole, None));
        assert_eq!(Frames::parse(&[0; 40], 7).corrupt, None);
        assert_eq!(Frames::parse(&file, 8).corrupt, Some(0));
    }
}
