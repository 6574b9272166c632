//! Grants on a real Xen host, by way of its kernel: `/dev/xen/gntdev` (Linux's `include/uapi/xen/gntdev.h`).

// UNSAFETY: ioctls, and memory that the kernel maps.
#![expect(unsafe_code)]

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use cantle_abi::grant_table::{GNTCOPY_dest_gref, GNTCOPY_source_gref, GNTST_okay};
use cantle_abi::{DomId, GrantRef, PAGE_SIZE};

use crate::copy::within_page;
use crate::{Access, CopyPiece, GrantMapper, GrantStatus, Local, Mapping};

/// Where the device is.
pub const DEVICE: &str = "/dev/xen/gntdev";

/// `struct ioctl_gntdev_map_grant_ref`, for one grant.
#[repr(C)]
struct MapGrantRef {
    count: u32,
    pad: u32,
    /// Out: where in the device to map it from.
    index: u64,
    domid: u32,
    gref: u32,
}

/// `struct ioctl_gntdev_unmap_grant_ref`.
#[repr(C)]
struct UnmapGrantRef {
    index: u64,
    count: u32,
    pad: u32,
}

/// One end of a [`Segment`] in another domain.
#[derive(Clone, Copy)]
#[repr(C)]
struct Foreign {
    gref: u32,
    offset: u16,
    domid: u16,
}

/// One end of a [`Segment`].
#[derive(Clone, Copy)]
#[repr(C)]
union End {
    virt: *mut c_void,
    foreign: Foreign,
}

/// `struct gntdev_grant_copy_segment`.
#[repr(C)]
struct Segment {
    source: End,
    dest: End,
    len: u16,
    flags: u16,
    /// Out.
    status: i16,
}

/// `struct ioctl_gntdev_grant_copy`.
#[repr(C)]
struct GrantCopy {
    count: u32,
    segments: *mut Segment,
}

const _: () = assert!(size_of::<MapGrantRef>() == 24 && size_of::<UnmapGrantRef>() == 16);
const _: () = assert!(size_of::<Segment>() == 24 && size_of::<GrantCopy>() == 16);

/// `_IOC(_IOC_NONE, 'G', nr, size)`.
const fn request(nr: u64, size: usize) -> u64 {
    (size as u64) << 16 | (b'G' as u64) << 8 | nr
}

const MAP_GRANT_REF: u64 = request(0, size_of::<MapGrantRef>());
const UNMAP_GRANT_REF: u64 = request(1, size_of::<UnmapGrantRef>());
const GRANT_COPY: u64 = request(8, size_of::<GrantCopy>());

/// A [`GrantMapper`] for a program in a domain of a real Xen host, by its kernel's device.
///
/// What the kernel and Xen say of a map is no more than that it failed: most refusals are
/// [`GENERAL_ERROR`](GrantStatus::GENERAL_ERROR). How many grants may be mapped at a time is the kernel's own limit.
#[derive(Clone, Debug)]
pub struct GntdevMapper {
    device: Arc<File>,
}

impl GntdevMapper {
    /// Opens the device.
    ///
    /// # Errors
    ///
    /// Those of opening a file: not found where this is no Xen host.
    pub fn open() -> io::Result<Self> {
        Self::open_at(Path::new(DEVICE))
    }

    /// Opens the device where it has another name.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_at(path: &Path) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self {
            device: Arc::new(device),
        })
    }
}

/// One page that the kernel has mapped.
pub(crate) struct Region {
    device: Arc<File>,
    page: NonNull<u8>,
    index: u64,
    granter: DomId,
}

impl Region {
    fn map(
        device: &Arc<File>,
        granter: DomId,
        gref: GrantRef,
        access: Access,
    ) -> Result<Self, GrantStatus> {
        let mut op = MapGrantRef {
            count: 1,
            pad: 0,
            index: 0,
            domid: granter.0.into(),
            gref: gref.0,
        };
        // SAFETY: the kernel reads and writes the one structure.
        unsafe { ioctl(device, MAP_GRANT_REF, &raw mut op) }.map_err(|e| status_of(&e))?;
        let mut protection = libc::PROT_READ;
        if access.writes() {
            protection |= libc::PROT_WRITE;
        }
        let offset = libc::off_t::try_from(op.index).map_err(|_| GrantStatus::GENERAL_ERROR)?;
        let fd = device.as_raw_fd();
        // SAFETY: a new mapping where the kernel likes, over nothing.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE_SIZE,
                protection,
                libc::MAP_SHARED,
                fd,
                offset,
            )
        };
        // Taken before what follows can spoil it.
        let error = io::Error::last_os_error();
        match NonNull::new(page.cast::<u8>()) {
            Some(page) if page.as_ptr().cast() != libc::MAP_FAILED => Ok(Self {
                device: device.clone(),
                page,
                index: op.index,
                granter,
            }),
            _ => {
                forget(device, op.index);
                Err(status_of(&error))
            }
        }
    }

    pub(crate) fn page(&self) -> NonNull<u8> {
        self.page
    }

    pub(crate) fn granter(&self) -> DomId {
        self.granter
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, with this length, and nobody has it any more.
        unsafe { libc::munmap(self.page.as_ptr().cast(), PAGE_SIZE) };
        forget(&self.device, self.index);
    }
}

/// Takes a grant that is not mapped (any more) off the device's list.
fn forget(device: &File, index: u64) {
    let mut op = UnmapGrantRef {
        index,
        count: 1,
        pad: 0,
    };
    // SAFETY: the kernel reads the one structure. It fails for what is not on the list, which is no harm.
    let _ = unsafe { ioctl(device, UNMAP_GRANT_REF, &raw mut op) };
}

/// # Safety
///
/// `argument` is what the request takes.
unsafe fn ioctl<T>(device: &File, request: u64, argument: *mut T) -> io::Result<()> {
    // SAFETY: as the caller says.
    match unsafe { libc::ioctl(device.as_raw_fd(), request, argument) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn status_of(error: &io::Error) -> GrantStatus {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => GrantStatus::NO_SPACE,
        Some(libc::EAGAIN) => GrantStatus::EAGAIN,
        Some(libc::EPERM | libc::EACCES) => GrantStatus::PERMISSION_DENIED,
        _ => GrantStatus::GENERAL_ERROR,
    }
}

impl GrantMapper for GntdevMapper {
    fn map(&self, granter: DomId, gref: GrantRef, access: Access) -> Result<Mapping, GrantStatus> {
        let region = Region::map(&self.device, granter, gref, access)?;
        Ok(Mapping::of_device(region, gref, access))
    }

    fn copy(&self, pieces: &mut [CopyPiece<'_>]) {
        let mut asked = Vec::with_capacity(pieces.len());
        let mut segments = Vec::with_capacity(pieces.len());
        for (index, piece) in pieces.iter_mut().enumerate() {
            piece.status = Ok(());
            if piece.local.is_empty() {
                continue;
            }
            match segment(piece) {
                Ok(segment) => {
                    asked.push(index);
                    segments.push(segment);
                }
                Err(status) => piece.status = Err(status),
            }
        }
        let Ok(count) = u32::try_from(segments.len()) else {
            return refuse(pieces, &asked, GrantStatus::NO_SPACE);
        };
        if count == 0 {
            return;
        }
        let mut op = GrantCopy {
            count,
            segments: segments.as_mut_ptr(),
        };
        // SAFETY: the kernel reads and writes as many segments as there are, and the buffers that they name, each borrowed by
        // its piece, for writing where it is written to.
        match unsafe { ioctl(&self.device, GRANT_COPY, &raw mut op) } {
            Ok(()) => {
                for (index, segment) in asked.into_iter().zip(&segments) {
                    if let (Some(piece), false) =
                        (pieces.get_mut(index), segment.status == GNTST_okay)
                    {
                        piece.status = Err(GrantStatus(segment.status));
                    }
                }
            }
            // Of none is known what became of it.
            Err(error) => refuse(pieces, &asked, status_of(&error)),
        }
    }
}

fn refuse(pieces: &mut [CopyPiece<'_>], which: &[usize], status: GrantStatus) {
    for index in which {
        if let Some(piece) = pieces.get_mut(*index) {
            piece.status = Err(status);
        }
    }
}

fn segment(piece: &mut CopyPiece<'_>) -> Result<Segment, GrantStatus> {
    let len = piece.local.len();
    within_page(piece.offset, len)?;
    let foreign = End {
        foreign: Foreign {
            gref: piece.gref.0,
            offset: piece.offset,
            domid: piece.granter.0,
        },
    };
    let len = u16::try_from(len).map_err(|_| GrantStatus::BAD_COPY_ARG)?;
    let (source, dest, flags) = match &mut piece.local {
        Local::Into(buffer) => {
            let virt = buffer.as_mut_ptr().cast();
            (foreign, End { virt }, GNTCOPY_source_gref)
        }
        Local::From(buffer) => {
            // Only read, by the flags.
            let virt = buffer.as_ptr().cast_mut().cast();
            (End { virt }, foreign, GNTCOPY_dest_gref)
        }
        Local::Shared(bytes) => {
            let virt = bytes.as_ptr().cast_mut().cast();
            (End { virt }, foreign, GNTCOPY_dest_gref)
        }
    };
    Ok(Segment {
        source,
        dest,
        len,
        flags,
        status: GrantStatus::GENERAL_ERROR.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_headers_numbers() {
        let numbers = [MAP_GRANT_REF, UNMAP_GRANT_REF, GRANT_COPY];
        assert_eq!(numbers, [0x18_4700, 0x10_4701, 0x10_4708]);
    }

    /// What is no such device refuses everything, and nothing is taken for done.
    #[test]
    fn another_device_refuses() {
        let mapper = GntdevMapper::open_at(Path::new("/dev/null")).unwrap();
        let refused = mapper.map(DomId(1), GrantRef(8), Access::ReadOnly);
        assert_eq!(refused.unwrap_err(), GrantStatus::GENERAL_ERROR);
        let mut buffer = [0; 8];
        let piece = |offset, local| CopyPiece {
            granter: DomId(1),
            gref: GrantRef(8),
            offset,
            local,
            status: Ok(()),
        };
        let mut pieces = [
            piece(4095, Local::From(b"too far")),
            piece(0, Local::Into(&mut buffer)),
            piece(0, Local::From(b"")),
        ];
        mapper.copy(&mut pieces);
        let statuses = pieces.map(|piece| piece.status);
        let expected = [
            Err(GrantStatus::BAD_COPY_ARG),
            Err(GrantStatus::GENERAL_ERROR),
            Ok(()),
        ];
        assert_eq!(statuses, expected);
    }

    /// On a Xen host: a grant that nobody made is refused by Xen itself.
    #[test]
    fn xen_refuses_what_is_not_granted() {
        let mapper = match GntdevMapper::open() {
            Ok(mapper) => mapper,
            Err(error) => {
                eprintln!("SKIPPED: {DEVICE}: {error}");
                return;
            }
        };
        let unused = GrantRef(u32::MAX - 1);
        assert!(mapper.map(DomId::DOM0, unused, Access::ReadOnly).is_err());
        let mut buffer = [0; 8];
        let mut pieces = [CopyPiece {
            granter: DomId::DOM0,
            gref: unused,
            offset: 0,
            local: Local::Into(&mut buffer),
            status: Ok(()),
        }];
        mapper.copy(&mut pieces);
        assert!(pieces[0].status.is_err());
    }
}
