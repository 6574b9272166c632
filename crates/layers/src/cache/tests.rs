use std::os::unix::fs::FileExt;

use cantle_image::{RawFormat, RawOptions};

use super::*;
use crate::test_utils::contents;

const GRANULE: usize = 65536;
const SIZE: usize = 5 * GRANULE + 4096;

struct Site {
    folder: tempfile::TempDir,
    image: PathBuf,
    bytes: Vec<u8>,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("golden");
        let bytes: Vec<u8> = (0..SIZE)
            .map(|at| (at / 512 % 251).to_le_bytes()[0])
            .collect();
        std::fs::write(&image, &bytes).unwrap();
        Self {
            folder,
            image,
            bytes,
        }
    }

    fn options(&self) -> CacheOptions {
        CacheOptions {
            keep_free: 0,
            ..CacheOptions::new(self.folder.path().join("caches"))
        }
    }

    fn golden(&self) -> Arc<dyn Format> {
        let options = RawOptions {
            read_only: true,
            ..RawOptions::default()
        };
        Arc::new(RawFormat::open(&self.image, &options).unwrap())
    }

    fn open_in(&self, boot: u8, options: &CacheOptions) -> Cache {
        Cache::open_in_boot(self.golden(), &self.image, options, Some([boot; 16])).unwrap()
    }

    fn open(&self) -> Cache {
        self.open_in(1, &self.options())
    }

    /// Reads the whole disk, and sees that it is right.
    fn check(&self, cache: &Cache) {
        let mut bytes = vec![0; SIZE];
        cache.read(0, &mut bytes).unwrap();
        assert!(bytes == self.bytes);
        assert!(contents(cache).unwrap() == self.bytes);
    }
}

#[test]
fn what_was_read_once_is_read_from_the_cache() {
    let site = Site::new();
    let cache = site.open();
    let mut part = [0; 512];
    cache.read(70_000 / 512 * 512, &mut part).unwrap();
    assert_eq!(part, site.bytes[70_000 / 512 * 512..][..512]);
    assert_eq!(
        cache.map(0, SIZE as u64).unwrap(),
        Mapped {
            extent: Extent::Other,
            len: 65536
        }
    );
    let there = cache.map(65536 + 512, SIZE as u64).unwrap();
    assert!(matches!(
        there,
        Mapped {
            extent: Extent::Data {
                file: 0,
                writable: false,
                ..
            },
            len: 65024
        }
    ));
    cache.read(70_144, &mut part).unwrap();
    let stats = cache.stats();
    assert_eq!(
        (stats.fills, stats.hits, stats.fill_bytes, stats.hit_bytes),
        (1, 1, 65536, 512)
    );
    site.check(&cache);
    assert_eq!(cache.stats().fills, 6);
    assert_eq!(
        cache.write(0, &part).unwrap_err().kind(),
        ErrorKind::ReadOnlyFilesystem
    );
    assert!(cache.geometry().read_only);
}

#[test]
fn a_second_process_sees_what_the_first_one_filled() {
    let site = Site::new();
    let (one, two) = (site.open(), site.open());
    site.check(&one);
    site.check(&two);
    assert_eq!((one.stats().fills, two.stats().fills), (6, 0));
    let known = two.map(0, SIZE as u64).unwrap();
    assert_eq!(known.len, SIZE as u64);
}

#[test]
fn a_cache_outlives_its_users_and_a_boot_if_it_was_closed() {
    let site = Site::new();
    site.check(&site.open());
    for boot in [1, 2] {
        let cache = site.open_in(boot, &site.options());
        site.check(&cache);
        assert_eq!(cache.stats().fills, 0);
    }
}

#[test]
fn after_a_crash_of_the_host_it_is_empty() {
    let site = Site::new();
    let cache = site.open();
    site.check(&cache);
    // Its process is gone, with the host: it closes nothing.
    std::mem::forget(cache);
    site.check(&site.open());
    let same_boot = site.open();
    site.check(&same_boot);
    assert_eq!(same_boot.stats().fills, 0);
    drop(same_boot);
    let after = site.open_in(2, &site.options());
    site.check(&after);
    assert_eq!(after.stats().fills, 6);
}

#[test]
fn while_one_has_it_open_another_does_not_close_it() {
    let site = Site::new();
    let one = site.open();
    site.check(&site.open());
    std::mem::forget(one);
    let after = site.open_in(2, &site.options());
    site.check(&after);
    assert_eq!(after.stats().fills, 6);
}

#[test]
fn a_changed_image_has_another_cache() {
    let mut site = Site::new();
    let old = site.open();
    let mut part = [0; 512];
    old.read(0, &mut part).unwrap();
    site.bytes[5] ^= 1;
    std::fs::write(&site.image, &site.bytes).unwrap();
    let new = site.open();
    site.check(&new);
    assert_eq!(new.stats().fills, 6);
    // The old one's users have what they had.
    old.read(0, &mut part).unwrap();
    assert_eq!(part[5], site.bytes[5] ^ 1);
    assert_eq!(
        std::fs::read_dir(site.options().folder).unwrap().count(),
        2,
        "the lock and one cache"
    );
}

#[test]
fn a_damaged_cache_is_made_anew_and_a_failing_one_passed_by() {
    let site = Site::new();
    site.check(&site.open());
    let folder = site.options().folder;
    let name = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some())
        .unwrap();
    let file = File::options().write(true).open(&name).unwrap();
    file.write_all_at(b"x", 30).unwrap();
    let cache = site.open();
    site.check(&cache);
    assert_eq!(cache.stats().fills, 6);
    // Cut under its users: what the map said is there is read from the image.
    File::options()
        .write(true)
        .open(&name)
        .unwrap()
        .set_len(0)
        .unwrap();
    let mut bytes = vec![0; SIZE];
    cache.read(0, &mut bytes).unwrap();
    assert!(bytes == site.bytes);
}

#[test]
fn without_room_or_folder_the_image_is_read() {
    let site = Site::new();
    let full = site.open_in(
        1,
        &CacheOptions {
            keep_free: u64::MAX,
            ..site.options()
        },
    );
    site.check(&full);
    assert_eq!((full.stats().fills, full.stats().hits), (0, 0));
    let nowhere = site.open_in(1, &CacheOptions::new("/proc/nowhere"));
    assert!(!nowhere.is_active());
    site.check(&nowhere);
}

#[test]
fn who_does_not_fill_reads_what_others_filled() {
    let site = Site::new();
    let reads = CacheOptions {
        fill: false,
        ..site.options()
    };
    assert!(!site.open_in(1, &reads).is_active());
    let filler = site.open();
    filler.read(0, &mut [0; 512]).unwrap();
    let reader = site.open_in(1, &reads);
    site.check(&reader);
    assert_eq!((reader.stats().hits, reader.stats().fills), (1, 0));
    assert!(!site.open_in(2, &reads).is_active(), "it was not closed");
}

#[test]
fn many_at_the_same_time() {
    let site = Site::new();
    let caches: Vec<_> = (0..3).map(|_| site.open()).collect();
    std::thread::scope(|scope| {
        for cache in caches.iter().cycle().take(9) {
            let site = &site;
            scope.spawn(move || site.check(cache));
        }
    });
    let fills: u64 = caches.iter().map(|cache| cache.stats().fills).sum();
    assert!(
        (6..=18).contains(&fills),
        "each granule once in each process at most: {fills}"
    );
}
