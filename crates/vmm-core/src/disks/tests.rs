use super::*;

use std::path::Path;

use cantle_blkback::test_utils::{BACK, BlkFront, Fault, FaultDisk, Served as Serving, World};
use cantle_blkback::{BackendOptions, DiskKind, OnError};
use cantle_disk::{CreateSpec, ImageFormat, create};
use cantle_image::{ImageError, IoOp};
use cantle_layers::Limits;

const SIZE: u64 = 1 << 20;

/// A disk that is served, a front end that uses it, and who obeys the toolstack.
struct Scene {
    front: BlkFront,
    disks: Disks,
    directory: String,
    _serving: Serving,
    world: World,
}

impl Scene {
    fn new(spec: &DiskSpec, options: BackendOptions) -> Self {
        let opened = Arc::new(cantle_disk::open(spec).unwrap());
        let disk = Arc::clone(opened.disk());
        Self::of(spec, options, opened, disk)
    }

    fn of(
        spec: &DiskSpec,
        options: BackendOptions,
        opened: Arc<OpenDisk>,
        disk: Arc<dyn Disk>,
    ) -> Self {
        let world = World::new();
        let backend = world.backend_of(disk, options).unwrap();
        let directory = world.id().backend_path();
        let client = world.client(BACK).unwrap();
        let path = spec.path.display().to_string();
        for (key, value) in [("params", path.as_str()), ("mode", mode(spec.read_only))] {
            let key = format!("{directory}/{key}");
            client.write(TxId::NONE, &key, value.as_bytes()).unwrap();
        }
        let served = Served {
            control: backend.control(),
            opened,
            spec: spec.clone(),
            directory: directory.clone(),
            changes_media: options.kind != DiskKind::Disk,
        };
        let disks = Disks::new(world.client(BACK).unwrap(), vec![served]).unwrap();
        let serving = world.serve(backend);
        Self {
            front: world.front().unwrap(),
            disks,
            directory,
            _serving: serving,
            world,
        }
    }

    fn say(&mut self, key: &str, value: &str) {
        let path = format!("{}/{key}", self.directory);
        let client = self.world.client(BACK).unwrap();
        client.write(TxId::NONE, &path, value.as_bytes()).unwrap();
        self.disks.look();
    }

    fn read(&self, key: &str) -> Option<String> {
        let path = format!("{}/{key}", self.directory);
        let client = self.world.client(BACK).unwrap();
        client.read_string(TxId::NONE, &path).ok()
    }

    /// Says something to `control`; why it was not done.
    fn order(&mut self, order: &str) -> Option<String> {
        self.say("control", order);
        assert_eq!(self.read("control"), None, "it was taken");
        self.read("control-error")
    }
}

fn image(folder: &Path, name: &str, byte: u8) -> DiskSpec {
    let path = folder.join(name);
    create(&path, &CreateSpec::new(ImageFormat::Raw, SIZE)).unwrap();
    std::fs::write(&path, vec![byte; usize::try_from(SIZE).unwrap()]).unwrap();
    DiskSpec::new(path, ImageFormat::Raw)
}

#[test]
fn a_disk_grows_and_the_front_end_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene::new(&image(folder.path(), "a", 1), BackendOptions::default());
    assert!(scene.front.read(SIZE / 512, 512).is_err());
    assert_eq!(scene.order("resize 4096"), None);
    scene.front.wait_key("sectors", "4096").unwrap();
    assert_eq!(scene.front.look_at_size().unwrap(), 4096);
    assert_eq!(scene.front.read(4088, 4096).unwrap(), [0; 4096]);
    for wrong in ["resize", "resize many", "resize 8", "explode", ""] {
        assert!(scene.order(wrong).is_some(), "{wrong:?}");
    }
    assert_eq!(scene.order("resize 4096"), None, "the last word counts");
}

#[test]
fn a_cd_is_changed_and_taken_out() {
    let folder = tempfile::tempdir().unwrap();
    let first = DiskSpec {
        read_only: true,
        ..image(folder.path(), "a", 1)
    };
    let second = image(folder.path(), "b", 2);
    let options = BackendOptions {
        kind: DiskKind::Cdrom,
        ..BackendOptions::default()
    };
    let mut scene = Scene::new(&first, options);
    assert_eq!(scene.front.read(0, 512).unwrap(), [1; 512]);
    scene.say("params", &second.path.display().to_string());
    assert_eq!(scene.read("control-error"), None);
    while scene.front.read(0, 512).unwrap() != [2; 512] {}
    scene.say("params", "");
    scene.front.wait_key("sectors", "0").unwrap();
    assert!(scene.front.read(0, 512).is_err());
    scene.say("params", "/nowhere/at/all");
    assert!(scene.read("control-error").is_some());
    scene.say("params", &first.path.display().to_string());
    assert_eq!(scene.read("control-error"), None);
    scene
        .front
        .wait_key("sectors", &(SIZE / 512).to_string())
        .unwrap();
    assert_eq!(scene.front.read(0, 512).unwrap(), [1; 512]);
}

#[test]
fn a_fixed_disk_keeps_its_medium_and_may_change_its_mode() {
    let folder = tempfile::tempdir().unwrap();
    let spec = image(folder.path(), "a", 1);
    let mut scene = Scene::new(&spec, BackendOptions::default());
    scene.say("params", "");
    assert!(scene.read("control-error").unwrap().contains("removable"));
    scene.say("params", &spec.path.display().to_string());
    scene.front.write(0, &[2; 512]).unwrap();
    scene.say("mode", "r");
    assert_eq!(scene.read("control-error"), None);
    scene.front.wait_key("info", "4").unwrap();
    assert!(scene.front.write(0, &[3; 512]).is_err());
    scene.say("mode", "w");
    scene.front.wait_key("info", "0").unwrap();
    scene.front.write(0, &[3; 512]).unwrap();
}

#[test]
fn limits_change_where_there_are_any() {
    let folder = tempfile::tempdir().unwrap();
    let spec = image(folder.path(), "a", 1);
    let mut scene = Scene::new(&spec, BackendOptions::default());
    assert!(scene.order("limits read-bps=1M").is_some());
    drop(scene);
    let limited = DiskSpec {
        limits: Some(Limits::default()),
        ..spec
    };
    let mut scene = Scene::new(&limited, BackendOptions::default());
    assert_eq!(scene.order("limits read-iops=20,read-iops-burst=1"), None);
    let begun = std::time::Instant::now();
    for _ in 0..4 {
        scene.front.read(0, 512).unwrap();
    }
    assert!(begun.elapsed() >= std::time::Duration::from_millis(100));
    assert!(scene.order("limits bps=1").is_some());
}

#[test]
fn a_disk_that_has_stopped_says_so_and_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let spec = image(folder.path(), "a", 1);
    let opened = Arc::new(cantle_disk::open(&spec).unwrap());
    let faulty = FaultDisk::new(Arc::clone(opened.disk()));
    let full = |io: &cantle_image::Io| match io.op() {
        IoOp::Write => Fault::Fail(ImageError::Host(libc::ENOSPC)),
        _ => Fault::Pass,
    };
    faulty.plan(full);
    let options = BackendOptions {
        on_error: OnError::Stop,
        ..BackendOptions::default()
    };
    let mut scene = Scene::of(&spec, options, opened, faulty.clone());
    let queue = scene.front.queue(0).unwrap();
    let request = queue.request(
        0,
        &cantle_blkback::test_utils::Transfer {
            operation: cantle_abi::io::blkif::BLKIF_OP_WRITE,
            sector: 0,
            bytes: 512,
        },
    );
    queue.push(&request).unwrap();
    queue.kick().unwrap();
    let control = scene.disks.disks[0].served.control.clone();
    cantle_blkback::test_utils::wait_until(|| control.is_stopped());
    scene.disks.say_stopped(0);
    assert_eq!(scene.read("stopped").as_deref(), Some("1"));
    faulty.plan(|_| Fault::Pass);
    assert_eq!(scene.order("resume"), None);
    let answer = scene.front.queue(0).unwrap().wait_response().unwrap();
    assert_eq!((answer.id, answer.status), (request.id, 0));
    assert!(!control.is_stopped());
    scene.disks.say_stopped(0);
    assert_eq!(scene.read("stopped"), None);
}

#[test]
fn a_disk_moves_to_another_image_while_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let spec = image(folder.path(), "a", 1);
    let mut scene = Scene::new(&spec, BackendOptions::default());
    let target = folder.path().join("b.qcow2");
    assert_eq!(
        scene.order(&format!("mirror qcow2 {}", target.display())),
        None
    );
    assert!(scene.order("mirror raw x").is_some(), "one at a time");
    let mut model = vec![1; usize::try_from(SIZE).unwrap()];
    let mut byte = 2;
    while scene.read("mirror").as_deref() != Some("done") {
        byte = if byte == 200 { 2 } else { byte + 1 };
        scene
            .front
            .write(u64::from(byte) * 8, &[byte; 4096])
            .unwrap();
        model[usize::from(byte) * 4096..][..4096].fill(byte);
        scene.disks.tick();
    }
    assert_eq!(scene.read("params"), Some(target.display().to_string()));
    assert_eq!(scene.read("format").as_deref(), Some("qcow2"));
    let source = std::fs::read(&spec.path).unwrap();
    scene.front.write(0, &[77; 512]).unwrap();
    scene.front.flush().unwrap();
    assert!(
        std::fs::read(&spec.path).unwrap() == source,
        "left as it was"
    );
    // The old image is free, the new one taken.
    drop(cantle_disk::open(&spec).unwrap());
    let moved = DiskSpec::new(&target, ImageFormat::Qcow2);
    assert!(matches!(
        cantle_disk::open(&moved),
        Err(DiskError::Locked { .. })
    ));
    let now = scene.front.read(0, usize::try_from(SIZE).unwrap()).unwrap();
    model[..512].fill(77);
    assert!(now == model, "nothing is lost");
}

#[test]
fn a_snapshot_leaves_the_image_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let spec = image(folder.path(), "a", 1);
    let mut scene = Scene::new(&spec, BackendOptions::default());
    scene.front.write(8, &[2; 4096]).unwrap();
    let over = folder.path().join("over.qcow2");
    assert_eq!(scene.order(&format!("snapshot {}", over.display())), None);
    scene.front.write(16, &[3; 512]).unwrap();
    scene.front.flush().unwrap();
    assert_eq!(scene.front.read(8, 4096).unwrap(), [2; 4096]);
    assert_eq!(scene.front.read(16, 512).unwrap(), [3; 512]);
    assert_eq!(scene.front.read(17, 512).unwrap(), [1; 512]);
    let below = std::fs::read(&spec.path).unwrap();
    assert_eq!(below[4096..8192], [2; 4096]);
    assert_eq!(below[8192..12288], [1; 4096]);
    assert!(matches!(
        cantle_disk::open(&spec),
        Err(DiskError::Locked { .. })
    ));
    assert!(
        scene
            .order(&format!("snapshot {}", over.display()))
            .is_some(),
        "it is there"
    );
    drop(scene);
    let chain = DiskSpec {
        parents: cantle_disk::Parents::SameFolder,
        ..DiskSpec::new(&over, ImageFormat::Qcow2)
    };
    let opened = cantle_disk::open(&chain).unwrap();
    let mut queue = cantle_image::test_utils::Driven::new(opened.disk()).unwrap();
    assert_eq!(queue.read(16, 512).unwrap(), [3; 512]);
    assert_eq!(queue.read(8, 4096).unwrap(), [2; 4096]);
}

#[test]
fn a_mirror_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let spec = image(folder.path(), "a", 1);
    // Larger than what is copied at once whatever the limit, so that it is not over before it is given up.
    let total = 8 * SIZE;
    let file = std::fs::File::options()
        .write(true)
        .open(&spec.path)
        .unwrap();
    file.set_len(total).unwrap();
    let mut scene = Scene::new(&spec, BackendOptions::default());
    assert!(scene.order("mirror-cancel").is_some());
    let target = folder.path().join("b");
    let order = format!("mirror raw {} 1000", target.display());
    assert_eq!(scene.order(&order), None);
    scene.disks.tick();
    assert!(
        scene
            .read("mirror")
            .unwrap()
            .contains(&format!("total={total}"))
    );
    assert_eq!(scene.order("mirror-cancel"), None);
    scene.front.write(0, &[5; 512]).unwrap();
    scene.front.flush().unwrap();
    assert_eq!(std::fs::read(&spec.path).unwrap()[..512], [5; 512]);
    for wrong in [
        "mirror",
        "mirror raw",
        "mirror vhdx x",
        "mirror raw x fast",
        "mirror raw /proc/nowhere",
        "snapshot",
    ] {
        assert!(scene.order(wrong).is_some(), "{wrong:?}");
    }
}
