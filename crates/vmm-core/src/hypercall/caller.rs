//! Who makes a hypercall, and its memory as it sees it.

use cantle_abi::{Errno, PAGE_SIZE, VcpuId};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Paging;
use crate::domain::Domain;

/// The vCPU that makes a call.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    domain: &'a Domain,
    vcpu: VcpuId,
    paging: Paging,
    cpl: u8,
}

impl<'a> Caller<'a> {
    pub(crate) fn new(domain: &'a Domain, vcpu: VcpuId, paging: Paging, cpl: u8) -> Self {
        Self {
            domain,
            vcpu,
            paging,
            cpl,
        }
    }

    pub(crate) fn domain(&self) -> &'a Domain {
        self.domain
    }

    pub(crate) fn vcpu(&self) -> VcpuId {
        self.vcpu
    }

    /// Only a kernel in long mode makes hypercalls; a program with port access does not.
    pub(crate) fn is_kernel(&self) -> bool {
        self.cpl == 0 && self.paging.is_long()
    }

    /// The guest-physical address behind a pointer.
    pub(crate) fn translate(&self, gva: u64, write: bool) -> Result<u64, Errno> {
        self.paging
            .translate(&self.domain.ram, gva, write)
            .ok_or(Errno::EFAULT)
    }

    /// Copies bytes from the caller's memory, page by page.
    pub(crate) fn read_bytes(&self, gva: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let mut at = gva;
        let mut rest = buf;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at_mut(rest.len().min(left_in_page(at)));
            self.domain.ram.read(self.translate(at, false)?, piece)?;
            at = at.checked_add(piece.len() as u64).ok_or(Errno::EFAULT)?;
            rest = after;
        }
        Ok(())
    }

    /// Copies bytes to the caller's memory, page by page. Where it fails, a part may have been written.
    pub(crate) fn write_bytes(&self, gva: u64, buf: &[u8]) -> Result<(), Errno> {
        let mut at = gva;
        let mut rest = buf;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(left_in_page(at)));
            self.domain.ram.write(self.translate(at, true)?, piece)?;
            at = at.checked_add(piece.len() as u64).ok_or(Errno::EFAULT)?;
            rest = after;
        }
        Ok(())
    }

    /// Copies a structure from the caller's memory: a private copy, read once.
    pub(crate) fn read<T: FromBytes + IntoBytes>(&self, gva: u64) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.read_bytes(gva, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies a structure to the caller's memory.
    pub(crate) fn write<T: IntoBytes + Immutable>(&self, gva: u64, value: &T) -> Result<(), Errno> {
        self.write_bytes(gva, value.as_bytes())
    }

    /// The address of element `index` of an array at `base`.
    pub(crate) fn element<T>(base: u64, index: u64) -> Result<u64, Errno> {
        index
            .checked_mul(size_of::<T>() as u64)
            .and_then(|o| base.checked_add(o))
            .ok_or(Errno::EFAULT)
    }
}

fn left_in_page(addr: u64) -> usize {
    let into = usize::try_from(addr % PAGE_SIZE as u64).unwrap_or(0);
    PAGE_SIZE - into
}
