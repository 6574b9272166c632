//! Backing files, and who may name them.

use std::path::Path;
use std::sync::Arc;

use cantle_image::Format;

use super::{all, pattern};
use crate::{
    Backing, BackingError, BackingName, CreateOptions, OpenError, Options, Qcow2, create_path,
};

fn make(path: &Path, name: &str, format: Option<&str>) {
    // What `create` refuses is put in by hand.
    let backing = Some(BackingName {
        name: name.into(),
        format: Some(format.unwrap_or("none").into()),
    });
    create_path(
        path,
        &CreateOptions {
            backing,
            ..CreateOptions::new(1 << 20)
        },
    )
    .unwrap();
    if format.is_none() {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[104..108].copy_from_slice(&1u32.to_be_bytes());
        std::fs::write(path, bytes).unwrap();
    }
}

fn open(path: &Path, backing: Backing) -> Result<Qcow2, BackingError> {
    match Qcow2::open_path(
        path,
        &Options {
            backing,
            ..Options::default()
        },
    ) {
        Ok(image) => Ok(image),
        Err(OpenError::Backing(error)) => Err(error),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_name_is_followed_only_when_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let (secret, base, top) = (
        other.path().join("secret"),
        folder.path().join("base"),
        folder.path().join("top"),
    );
    std::fs::write(&secret, vec![7; 4096]).unwrap();
    std::fs::write(&base, pattern(1, 1 << 20)).unwrap();
    make(&top, "base", Some("raw"));
    assert!(matches!(
        open(&top, Backing::Refuse),
        Err(BackingError::Refused(_))
    ));
    let inside = Backing::InFolder(folder.path().to_owned());
    assert!(all(&open(&top, inside.clone()).unwrap()) == pattern(1, 1 << 20));
    assert!(all(&open(&top, Backing::Absent).unwrap()) == vec![0; 1 << 20]);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&secret, &link).unwrap();
    for name in [secret.to_str().unwrap(), "../../etc/passwd", "link"] {
        std::fs::remove_file(&top).unwrap();
        make(&top, name, Some("raw"));
        let refused = open(&top, inside.clone());
        assert!(
            matches!(
                refused,
                Err(BackingError::Outside { .. } | BackingError::Io { .. })
            ),
            "{name}: {refused:?}"
        );
        assert!(matches!(
            open(&top, Backing::Refuse),
            Err(BackingError::Refused(_))
        ));
    }
    let parent: Arc<dyn Format> = Arc::new(open(&top, Backing::Absent).unwrap());
    assert!(open(&top, Backing::Parent(parent)).is_ok());
    let by = Backing::By(Arc::new(|name| {
        Err(std::io::Error::other(format!("{:?}", name.name)))
    }));
    assert!(matches!(open(&top, by), Err(BackingError::Io { .. })));
}

#[test]
fn the_format_is_never_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let (base, top) = (folder.path().join("base"), folder.path().join("top"));
    std::fs::write(&base, vec![7; 4096]).unwrap();
    make(&top, "base", None);
    assert!(matches!(
        open(&top, Backing::Any),
        Err(BackingError::NoFormat(_))
    ));
    std::fs::remove_file(&top).unwrap();
    make(&top, "base", Some("vpc"));
    assert!(matches!(
        open(&top, Backing::Any),
        Err(BackingError::Format(_))
    ));
    for name in [
        "json:{\"driver\":\"file\"}",
        "nbd://host/disk",
        "fat:rw:/etc",
    ] {
        std::fs::remove_file(&top).unwrap();
        make(&top, name, Some("raw"));
        assert!(matches!(
            open(&top, Backing::Any),
            Err(BackingError::Protocol(_))
        ));
    }
}

/// A raw disk whose guest wrote a qcow2 header into it stays raw, here as a backing file.
#[test]
fn a_raw_backing_file_with_another_format_s_header_stays_raw() {
    let folder = tempfile::tempdir().unwrap();
    let (base, top) = (folder.path().join("base"), folder.path().join("top"));
    make(&base, "/etc/passwd", Some("raw"));
    let bytes = std::fs::read(&base).unwrap();
    make(&top, "base", Some("raw"));
    assert!(all(&open(&top, Backing::Any).unwrap())[..bytes.len()] == bytes);
}

#[test]
fn a_chain_ends() {
    let folder = tempfile::tempdir().unwrap();
    let name = |number: usize| format!("disk{number}");
    make(&folder.path().join("a"), "b", Some("qcow2"));
    make(&folder.path().join("b"), "./a", Some("qcow2"));
    let mut error = open(&folder.path().join("a"), Backing::Any).unwrap_err();
    for _ in 0..2 {
        error = match error {
            BackingError::Qcow2 { source, .. } => match *source {
                OpenError::Backing(inner) => inner,
                other => panic!("{other:?}"),
            },
            other => other,
        };
    }
    assert!(matches!(error, BackingError::Cycle(_)), "{error:?}");
    for number in 0..40 {
        make(
            &folder.path().join(name(number)),
            &name(number + 1),
            Some("qcow2"),
        );
    }
    create_path(&folder.path().join(name(40)), &CreateOptions::new(1 << 20)).unwrap();
    assert!(open(&folder.path().join(name(0)), Backing::Any).is_err());
    assert!(open(&folder.path().join(name(20)), Backing::Any).is_ok());
}
