//! Parents: found, refused, checked; and written into.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use cantle_image::Format;

use super::{options, parent, raw, read, read_all, sector, sectors};
use crate::{CreateOptions, Kind, OpenError, OpenOptions, ParentDisk, ParentError, Parents, Vhd};

fn child_of(parent: ParentDisk) -> CreateOptions {
    CreateOptions {
        block_size: super::BLOCK,
        ..CreateOptions::differencing(parent)
    }
}

fn opening(parents: Parents) -> OpenOptions {
    OpenOptions {
        parents,
        ..OpenOptions::default()
    }
}

/// Two images in a folder, the second over the first one.
fn pair(folder: &Path) {
    let base = folder.join("base.vhd");
    let disk = Vhd::create_path(&base, &options(Kind::Dynamic)).unwrap();
    disk.write(0, &sectors(100, 20)).unwrap();
    drop(disk);
    let over = ParentDisk::vhd(&base, Parents::Refuse).unwrap();
    let disk = Vhd::create_path(&folder.join("child.vhd"), &child_of(over)).unwrap();
    disk.write(512, &sector(7)).unwrap();
}

fn refusal(path: &Path, options: &OpenOptions) -> ParentError {
    match Vhd::open_path(path, options) {
        Err(OpenError::Parent(error)) => *error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_parent_is_opened_only_where_the_caller_allows_it() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    pair(folder.path());
    let child = folder.path().join("child.vhd");
    assert!(matches!(
        refusal(&child, &OpenOptions::default()),
        ParentError::Refused
    ));
    let outside = opening(Parents::InFolder(elsewhere.path().to_owned()));
    assert!(matches!(
        refusal(&child, &outside),
        ParentError::Outside { .. }
    ));
    for parents in [Parents::InFolder(folder.path().to_owned()), Parents::Any] {
        let disk = Vhd::open_path(&child, &opening(parents)).unwrap();
        assert_eq!(
            read(&disk, 0, 3 * 512),
            [sector(100), sector(7), sector(102)].concat()
        );
    }
    let given = opening(Parents::Given(raw(&sectors(900, 4))));
    let disk = Vhd::open_path(&child, &given).unwrap();
    assert_eq!(
        read(&disk, 1024, 1536),
        [sector(902), sector(903), [0; 512]].concat()
    );
}

#[test]
fn a_link_does_not_lead_out_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    pair(folder.path());
    let (base, moved) = (
        folder.path().join("base.vhd"),
        elsewhere.path().join("base.vhd"),
    );
    std::fs::rename(&base, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &base).unwrap();
    let options = opening(Parents::InFolder(folder.path().to_owned()));
    let error = refusal(&folder.path().join("child.vhd"), &options);
    assert!(matches!(error, ParentError::Outside { .. }));
}

#[test]
fn a_chain_can_be_moved_and_opened_from_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("a")).unwrap();
    pair(&folder.path().join("a"));
    std::fs::rename(folder.path().join("a"), folder.path().join("b")).unwrap();
    let disk = Vhd::open_path(&folder.path().join("b/child.vhd"), &opening(Parents::Any)).unwrap();
    assert_eq!(read(&disk, 0, 512), sector(100));
    let names = disk.info().parent.unwrap().names;
    assert_eq!(names.first(), Some(&"./base.vhd".into()));
    assert_eq!(names.last(), Some(&"base.vhd".into()));
    drop(disk);
    std::fs::remove_file(folder.path().join("b/base.vhd")).unwrap();
    let error = refusal(&folder.path().join("b/child.vhd"), &opening(Parents::Any));
    assert!(matches!(error, ParentError::NotFound { tried } if tried == names));
}

#[test]
fn another_image_in_the_parents_place_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    pair(folder.path());
    let base = folder.path().join("base.vhd");
    std::fs::remove_file(&base).unwrap();
    drop(Vhd::create_path(&base, &options(Kind::Dynamic)).unwrap());
    let error = refusal(&folder.path().join("child.vhd"), &opening(Parents::Any));
    assert!(matches!(error, ParentError::Uuid { .. }));
}

#[test]
fn a_parent_of_another_time_is_refused_where_the_caller_minds() {
    let folder = tempfile::tempdir().unwrap();
    pair(folder.path());
    let child = folder.path().join("child.vhd");
    let strict = OpenOptions {
        strict_parent_time: true,
        ..opening(Parents::Any)
    };
    drop(Vhd::open_path(&child, &strict).unwrap());
    let base = std::fs::File::options()
        .write(true)
        .open(folder.path().join("base.vhd"));
    let before = std::time::SystemTime::now() - std::time::Duration::from_secs(1000);
    base.unwrap().set_modified(before).unwrap();
    assert!(matches!(
        refusal(&child, &strict),
        ParentError::Modified { .. }
    ));
    Vhd::open_path(&child, &opening(Parents::Any)).unwrap();
}

#[test]
fn a_raw_parent_is_never_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base.img");
    // A guest has written an image into its raw disk.
    let file = super::file();
    drop(Vhd::create(Arc::clone(&file), &options(Kind::Dynamic)).unwrap());
    let bytes = super::contents(&file);
    std::fs::write(&base, &bytes).unwrap();
    let child = folder.path().join("child.vhd");
    let over = ParentDisk::raw(&base).unwrap();
    drop(Vhd::create_path(&child, &child_of(over)).unwrap());
    let disk = Vhd::open_path(&child, &opening(Parents::Any)).unwrap();
    assert!(read_all(&disk) == bytes);
}

#[test]
fn an_image_over_itself_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.vhd");
    std::fs::write(&path, b"").unwrap();
    let over = ParentDisk {
        path: path.clone(),
        ..parent(raw(&[0; 4096]))
    };
    let options = CreateOptions {
        folder: Some(folder.path().canonicalize().unwrap()),
        ..child_of(over)
    };
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    drop(Vhd::create(Arc::new(file), &options).unwrap());
    let error = refusal(&path, &opening(Parents::Any));
    assert!(matches!(error, ParentError::Cycle { .. }), "{error:?}");
}

#[test]
fn a_chain_has_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = |index| folder.path().join(format!("{index}.vhd"));
    drop(Vhd::create_path(&path(0), &options(Kind::Dynamic)).unwrap());
    for index in 1..64 {
        let over = ParentDisk::vhd(&path(index - 1), Parents::Any).unwrap();
        let disk = Vhd::create_path(&path(index), &child_of(over)).unwrap();
        disk.write(index * 512, &sector(index)).unwrap();
    }
    let last = ParentDisk::vhd(&path(63), Parents::Any).unwrap();
    assert_eq!(read(&last.disk, 5 * 512, 512), sector(5));
    drop(Vhd::create_path(&path(64), &child_of(last)).unwrap());
    let error = refusal(&path(64), &opening(Parents::Any));
    assert!(matches!(error, ParentError::TooDeep(64)), "{error:?}");
}

#[test]
fn a_commit_makes_the_parent_what_the_child_was() {
    let folder = tempfile::tempdir().unwrap();
    pair(folder.path());
    let child = Vhd::open_path(&folder.path().join("child.vhd"), &opening(Parents::Any)).unwrap();
    child.write(1000 * 512, &sectors(5000, 200)).unwrap();
    child.grow(2000).unwrap();
    child.write(1999 * 512, &sector(9)).unwrap();
    let base = folder.path().join("base.vhd");
    let base = Vhd::open_path(&base, &OpenOptions::default()).unwrap();
    let mut last = 0;
    child.commit(&base, &mut |done| last = done).unwrap();
    assert_eq!(last, 2000 * 512);
    assert!(read_all(&base) == read_all(&child));
    assert!(
        base.commit(&child, &mut |_| {}).is_err(),
        "the base has no parent"
    );
}

#[test]
fn a_sector_of_its_own_is_zero_after_a_discard_and_not_the_parents() {
    let file = super::file();
    let over = parent(raw(&sectors(50, super::SECTORS)));
    let disk = Vhd::create(Arc::clone(&file), &child_of(over)).unwrap();
    disk.write(0, &sectors(1, 4)).unwrap();
    disk.discard(512, 512 * 5).unwrap();
    let expected = [
        sector(1),
        [0; 512],
        [0; 512],
        [0; 512],
        sector(54),
        sector(55),
    ]
    .concat();
    assert_eq!(read(&disk, 0, 6 * 512), expected);
    drop(disk);
    let mut bit = [0];
    file.read_exact_at(&mut bit, file.metadata().unwrap().len() - 512 - 4096 - 512)
        .unwrap();
    assert_eq!(
        bit,
        [0xf0],
        "the first four sectors are there, highest bit first"
    );
}
