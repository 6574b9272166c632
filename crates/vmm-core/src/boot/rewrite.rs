//! Rewriting a kernel's own hypercall instructions into port writes.
//!
//! A current Linux has no hypercall page. It has two small functions, one with AMD's `vmmcall` and one with Intel's
//! `vmcall`, and calls the one that fits the processor. On a KVM without Xen support neither reaches us, but `out` does:
//! `out %eax, $port` and a `nop` are three bytes as well, and the registers hold number and arguments as before.

use memchr::memmem;

use super::elf::Segment;

/// `vmmcall`, AMD's.
const VMMCALL: [u8; 3] = [0x0f, 0x01, 0xd9];
/// `vmcall`, Intel's.
const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];
/// What both must be followed by at once: `ret`, or `jmp` to the kernel's return thunk.
const RETURNS: [u8; 2] = [0xc3, 0xe9];
/// How far the second function may lie behind the first, in bytes: functions are aligned to 16 (Linux 6.1) or, with
/// the padding for call-depth tracking, to 32 (6.12).
const DISTANCES: [usize; 2] = [16, 32];

/// Why a kernel's hypercalls cannot be rewritten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RewriteError {
    /// Nothing looks like the pair of functions: an older kernel that uses the hypercall page, or no Linux.
    #[error("the kernel has no pair of vmmcall and vmcall functions")]
    None,
    /// More than one place looks like it, so that it is not certain what would be changed.
    #[error(
        "the kernel has more than one pair of vmmcall and vmcall functions: at {first:#x} and {second:#x}"
    )]
    Ambiguous {
        /// Offset of the first in the image.
        first: usize,
        /// Offset of the second.
        second: usize,
    },
    /// The image is not the one in which the places were found.
    #[error("the bytes at {at:#x} are no hypercall instruction")]
    Changed {
        /// Offset in the image.
        at: usize,
    },
}

/// Where a kernel makes its hypercalls, as offsets in the unpacked image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HypercallSites {
    /// Of `vmmcall`.
    pub vmmcall: usize,
    /// Of `vmcall`.
    pub vmcall: usize,
}

impl HypercallSites {
    /// Looks for the one pair in the executable segments of `image`. `segments` are checked against it.
    ///
    /// # Errors
    ///
    /// [`RewriteError::None`] or [`RewriteError::Ambiguous`].
    pub fn find(image: &[u8], segments: &[Segment]) -> Result<Self, RewriteError> {
        let finder = memmem::Finder::new(&VMMCALL);
        let mut found: Option<Self> = None;
        for segment in segments.iter().filter(|s| s.executable) {
            let code = image.get(segment.file.clone()).unwrap_or_default();
            for at in finder.find_iter(code) {
                let Some(distance) = pair_at(code, at) else {
                    continue;
                };
                let vmmcall = segment.file.start + at;
                if let Some(first) = found {
                    return Err(RewriteError::Ambiguous {
                        first: first.vmmcall,
                        second: vmmcall,
                    });
                }
                found = Some(Self {
                    vmmcall,
                    vmcall: vmmcall + distance,
                });
            }
        }
        found.ok_or(RewriteError::None)
    }

    /// Makes both places in `image` into `out %eax, $port; nop`.
    ///
    /// # Errors
    ///
    /// [`RewriteError::Changed`] if the places do not hold what was found there; `image` is unchanged then.
    pub fn rewrite(&self, image: &mut [u8], port: u8) -> Result<(), RewriteError> {
        for (at, was) in [(self.vmmcall, VMMCALL), (self.vmcall, VMCALL)] {
            if image.get(at..).and_then(|rest| rest.first_chunk()) != Some(&was) {
                return Err(RewriteError::Changed { at });
            }
        }
        for at in [self.vmmcall, self.vmcall] {
            if let Some(place) = image.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
                *place = [0xe7, port, 0x90];
            }
        }
        Ok(())
    }
}

/// If the `vmmcall` at `at` is the first of a pair: how far behind it the `vmcall` is.
fn pair_at(code: &[u8], at: usize) -> Option<usize> {
    let is_call = |at: usize, call: [u8; 3]| {
        matches!(code.get(at..).and_then(|rest| rest.first_chunk()),
            Some([a, b, c, after]) if [*a, *b, *c] == call && RETURNS.contains(after))
    };
    is_call(at, VMMCALL).then(|| DISTANCES.into_iter().find(|d| is_call(at + d, VMCALL)))?
}

#[cfg(test)]
mod tests;
