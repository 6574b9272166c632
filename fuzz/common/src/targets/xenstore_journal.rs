//! A journal's folder that somebody has changed: checkpoints and journals whose checksums are right, whatever is in them, or whose
//! bytes are any.

use std::fs;
use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use cantle_abi::io::xs_wire::{XS_READ, XS_WRITE};
use cantle_xenstore::TxId;
use cantle_xenstore::journal::{Journal, Options};
use cantle_xenstore::state::{Record, emit, emit_header};

use super::xenstore_state::{Made, change, is_whole};

/// A folder.
#[derive(Arbitrary, Debug)]
struct Folder {
    checkpoint: Vec<Made>,
    /// The journals' frames, the first of the checkpoint's generation.
    journals: Vec<Vec<Vec<Made>>>,
    /// Bytes that are changed before the checksums are made.
    inside: Vec<(u16, u8)>,
    /// And after.
    outside: Vec<(u16, u8)>,
    odd: Odd,
}

/// What else may be there.
#[derive(Arbitrary, Debug)]
struct Odd {
    /// The first generation is this.
    generation: u8,
    /// A file of any generation, and any bytes in it.
    name: Option<(u64, u8)>,
    bytes: Vec<u8>,
}

const CRC: fn(&[u8]) -> u32 = crc32fast::hash;

/// Runs one input.
///
/// # Panics
///
/// Where a folder that could be opened gives no whole server, or cannot be opened once it was written to.
pub fn run(data: &[u8]) {
    let Ok(folder) = Folder::arbitrary(&mut Unstructured::new(data)) else {
        return;
    };
    let Ok(dir) = tempfile::tempdir_in(memory()) else {
        return;
    };
    if write(dir.path(), &folder).is_none() {
        return;
    }
    let options = Options {
        sync: false,
        compact_at: u64::from(data.len().is_multiple_of(2)) * 10_000,
    };
    let Ok((mut journal, Some(restored))) = Journal::open(dir.path(), options) else {
        return;
    };
    let mut server = restored.server;
    is_whole(&mut server, &restored.connections);
    let dom0 = server.connect_socket();
    let answer = server.request(dom0, XS_WRITE, TxId::NONE, b"/kept\0here");
    assert!(answer.is_ok(), "{answer:?}");
    journal.append(&mut server).expect("a folder that was read");
    journal.settle();
    drop(journal);
    let (_journal, restored) = Journal::open(dir.path(), options).expect("what was written");
    let mut restored = restored.expect("something was written");
    let dom0 = restored.server.connect_socket();
    let kept = restored
        .server
        .request(dom0, XS_READ, TxId::NONE, b"/kept\0");
    assert_eq!(kept.as_deref(), Ok(&b"here"[..]));
    is_whole(&mut restored.server, &restored.connections);
}

/// Where files cost least.
fn memory() -> &'static Path {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() {
        shared
    } else {
        Path::new("/tmp")
    }
}

fn write(dir: &Path, folder: &Folder) -> Option<()> {
    let first = u64::from(folder.odd.generation % 4);
    let mut stream = Vec::new();
    emit_header(&mut stream);
    for record in folder.checkpoint.iter().take(50) {
        record.emit(&mut stream);
    }
    emit(&mut stream, &Record::End).ok()?;
    change(&mut stream, &folder.inside);
    let crc = CRC(&stream);
    stream.extend_from_slice(b"cantlexc");
    stream.extend_from_slice(&first.to_le_bytes());
    stream.extend_from_slice(&u64::from(crc).to_le_bytes());
    fs::write(dir.join(format!("{first:08}.checkpoint")), stream).ok()?;
    for (generation, frames) in (first..).zip(folder.journals.iter().take(4)) {
        let mut file = b"cantlexj\x01\0\0\0\0\0\0\0".to_vec();
        file.extend_from_slice(&generation.to_le_bytes());
        for (number, records) in (0_u32..).zip(frames.iter().take(20)) {
            frame(&mut file, number, records, &folder.inside);
        }
        change(&mut file, &folder.outside);
        fs::write(dir.join(format!("{generation:08}.journal")), file).ok()?;
    }
    if let Some((generation, kind)) = folder.odd.name {
        let kind = ["checkpoint", "unfinished", "journal"][usize::from(kind % 3)];
        fs::write(
            dir.join(format!("{generation:08}.{kind}")),
            &folder.odd.bytes,
        )
        .ok()?;
    }
    Some(())
}

fn frame(file: &mut Vec<u8>, number: u32, records: &[Made], changes: &[(u16, u8)]) {
    let mut body = Vec::new();
    records
        .iter()
        .take(20)
        .for_each(|record| record.emit(&mut body));
    change(&mut body, changes);
    let Ok(len) = u32::try_from(body.len()) else {
        return;
    };
    let begin = file.len();
    for field in [len, CRC(&body), number] {
        file.extend_from_slice(&field.to_le_bytes());
    }
    let head = CRC(&file[begin..]);
    file.extend_from_slice(&head.to_le_bytes());
    file.extend_from_slice(&body);
}
