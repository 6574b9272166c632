//! The back end's side of an attempt: set up as any other, then hostile.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::time::Duration;

use cantle_abi::{PAGE_SIZE, SharedMemory};
use cantle_grant::process::{Confinement, ProcessMapper, Setup};
use cantle_grant::{Access, GrantMapper, Mapping};
use io_uring::IoUring;

use crate::host::{FRAMES, GUEST, LENT, LENT_READ_ONLY, PUBLIC, SECRET};
use crate::{Setting, attempts};

/// A back end that means harm, and what it has.
pub(crate) struct Hostile {
    pub(crate) mapper: ProcessMapper,
    /// A page lent for reading and writing.
    pub(crate) lent: Option<Mapping>,
    /// A page lent for reading.
    pub(crate) read_only: Option<Mapping>,
    pub(crate) uffd: RawFd,
    /// The socket to the broker, a second time.
    pub(crate) socket: OwnedFd,
    /// A pipe: to read from, to write to.
    pub(crate) pipe: (OwnedFd, OwnedFd),
    /// A file of dirt, with room for secrets.
    pub(crate) file: File,
    /// The same, or a device, for direct I/O; where the system has that.
    pub(crate) direct: Option<File>,
    pub(crate) ring: Option<IoUring>,
}

pub(crate) fn say(what: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{what}");
    let _ = out.flush();
}

/// A byte that was read where nothing is lent.
pub(crate) fn say_byte(byte: u8) {
    say(if byte == SECRET {
        "SEEN: a secret"
    } else {
        "read something that is no secret"
    });
}

impl Hostile {
    fn new(setting: Setting) -> Result<Self, Box<dyn std::error::Error>> {
        let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
        let second = socket.try_clone()?;
        let setup = Setup::receive(socket)?;
        let uffd = find_uffd().ok_or("no userfaultfd to be found")?;
        let (reader, writer) = std::io::pipe()?;
        let (file, direct) = files()?;
        let ring = IoUring::builder().setup_r_disabled().build(8).ok();
        if ring.is_none() {
            say("no io_uring here");
        }
        let mapper = if setting.is_open() || setting == Setting::Forgotten {
            setup.unconfined()?
        } else {
            let mut confinement = Confinement::new();
            if let Some(ring) = &ring {
                confinement = confinement.ring(borrowed(ring.as_raw_fd()));
            }
            setup.confine(&confinement)?
        };
        let lent = mapper.map(GUEST, LENT.0, Access::ReadWrite)?;
        let read_only = mapper.map(GUEST, LENT_READ_ONLY.0, Access::ReadOnly)?;
        for mapping in [&lent, &read_only] {
            if read(mapping.as_ptr().as_ptr()) != PUBLIC {
                return Err("a lent page is not what it should be".into());
            }
        }
        Ok(Self {
            mapper,
            lent: Some(lent),
            read_only: Some(read_only),
            uffd,
            socket: second,
            pipe: (reader.into(), writer.into()),
            file,
            direct,
            ring,
        })
    }

    /// The lent page.
    pub(crate) fn page(&self) -> *mut u8 {
        let mapping = self.lent.as_ref().expect("still mapped");
        mapping.as_ptr().as_ptr()
    }

    /// The page after it, which is not lent.
    pub(crate) fn beside(&self) -> *mut u8 {
        self.page().wrapping_add(PAGE_SIZE)
    }

    /// The page that is lent for reading.
    pub(crate) fn read_only_page(&self) -> *mut u8 {
        let mapping = self.read_only.as_ref().expect("still mapped");
        mapping.as_ptr().as_ptr()
    }

    /// A frame in the window for reading and writing.
    pub(crate) fn frame(&self, frame: u64) -> *mut u8 {
        let frame = usize::try_from(frame).expect("small");
        assert!(frame < FRAMES);
        let lent = usize::try_from(LENT.1.0).expect("small");
        self.page()
            .wrapping_sub(lent * PAGE_SIZE)
            .wrapping_add(frame * PAGE_SIZE)
    }
}

fn borrowed(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the ring lives as long as this process uses it.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

pub(crate) fn read(at: *const u8) -> u8 {
    // SAFETY: it may fault; that is what is tried.
    unsafe { at.read_volatile() }
}

pub(crate) fn write(at: *mut u8, byte: u8) {
    // SAFETY: as above.
    unsafe { at.write_volatile(byte) };
}

fn find_uffd() -> Option<RawFd> {
    let list = std::fs::read_dir("/proc/self/fd").ok()?;
    list.flatten().find_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        let is_uffd = target.to_string_lossy().ends_with("[userfaultfd]");
        is_uffd.then(|| entry.file_name().to_str()?.parse().ok())?
    })
}

/// A file for buffered and one for direct I/O, of zeros: not secret, not public.
fn files() -> std::io::Result<(File, Option<File>)> {
    let given = std::env::var_os("HOSTILE_FILE");
    let path = given
        .clone()
        .unwrap_or_else(|| format!("hostile-{}.tmp", std::process::id()).into());
    let open = |flags| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(given.is_none())
            .custom_flags(flags)
            .open(&path)
    };
    let file = open(0)?;
    if given.is_none() {
        file.set_len(16 * PAGE_SIZE as u64)?;
    }
    let direct = open(libc::O_DIRECT).ok();
    if given.is_none() {
        std::fs::remove_file(&path)?;
    }
    Ok((file, direct))
}

pub(crate) fn main(name: &str, setting: &str) -> ExitCode {
    let (Some(setting), Some(attempt)) = (
        Setting::named(setting),
        attempts().into_iter().find(|attempt| attempt.name == name),
    ) else {
        return ExitCode::from(2);
    };
    let mut hostile = match Hostile::new(setting) {
        Ok(hostile) => hostile,
        Err(error) => {
            let cause = error.source().map(ToString::to_string);
            say(&format!(
                "cannot begin: {error} {}",
                cause.unwrap_or_default()
            ));
            return ExitCode::FAILURE;
        }
    };
    say("ready");
    if matches!(setting, Setting::NoBroker | Setting::OpenNoBroker) {
        // Until nobody answers any more.
        while hostile.mapper.map(GUEST, LENT.0, Access::ReadOnly).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
        say("no broker");
        let run = attempt.run;
        let attempt = std::thread::spawn(move || run(&mut hostile));
        for _ in 0..100 {
            if attempt.is_finished() {
                return ExitCode::SUCCESS;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        say("hangs, as it should");
        return ExitCode::SUCCESS;
    }
    (attempt.run)(&mut hostile);
    say("done");
    // Without destructors: the lent pages go with the process.
    std::process::exit(0);
}
