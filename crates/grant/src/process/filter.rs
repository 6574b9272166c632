//! Which system calls a confined back end has: a list of what is allowed, everything else fails with `EPERM`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::RawFd;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::setup::GUARD;

/// Calls that are allowed whatever their arguments.
///
/// What is *not* here matters: nothing that opens a path or makes a descriptor of one, an io_uring or a userfaultfd; no `execve`, `fork`,
/// `ptrace`, `process_vm_*`, `pidfd_*`, `process_madvise`; no `mremap`, `remap_file_pages`, `pkey_mprotect`, `mbind`, `mlock`; nothing that keeps a page
/// beyond the call but by plain I/O (`vmsplice`, `io_uring_register`, `setsockopt` for `MSG_ZEROCOPY`); no `ioctl`.
const PLAIN: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_ppoll,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_timerfd_settime,
    libc::SYS_io_uring_enter,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getrandom,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Answered by the other filter.
    libc::SYS_clone3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
];

/// Advice for memory: what gives pages back, and nothing else. Not `MADV_REMOVE` (it empties the file), `MADV_COLLAPSE` (it enters neighbours), `MADV_DOFORK`.
const ADVICE: [c_long; 2] = [libc::MADV_DONTNEED as c_long, libc::MADV_FREE as c_long];

const FCNTL: [c_long; 5] = [
    libc::F_GETFD as c_long,
    libc::F_SETFD as c_long,
    libc::F_GETFL as c_long,
    libc::F_SETFL as c_long,
    libc::F_DUPFD_CLOEXEC as c_long,
];

/// What `clone` must have: a thread, that shares memory and descriptors.
const THREAD: c_long =
    (libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD) as c_long;

/// No address of a process is as high. Some machines ignore what is above it in an address, others would not.
const ADDRESSES: u64 = 1 << 56;

/// What the filter is made for.
pub(super) struct Circumstances<'a> {
    /// The guard and the windows.
    pub(super) arena: Range<usize>,
    /// The process's own copy of its userfaultfd, which must stay open.
    pub(super) uffd: RawFd,
    pub(super) pid: u32,
    /// Calls that the program has asked for besides.
    pub(super) also: &'a [c_long],
    /// `ioctl` commands, likewise.
    pub(super) ioctls: &'a [u32],
}

/// The programs of both filters, in the order in which they are installed.
pub(super) fn programs(for_: &Circumstances<'_>) -> Result<[BpfProgram; 2], BackendError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    // Its flags are in memory, where no filter sees them. A libc that is told so uses `clone`.
    let no_clone3 = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno(libc::ENOSYS)),
        arch,
    )?;
    let allowed = SeccompFilter::new(
        rules(for_)?,
        SeccompAction::Errno(errno(libc::EPERM)),
        SeccompAction::Allow,
        arch,
    )?;
    Ok([no_clone3.try_into()?, allowed.try_into()?])
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn rules(for_: &Circumstances<'_>) -> Result<Rules, BackendError> {
    let plain = PLAIN.iter().chain(for_.also);
    let mut rules: Rules = plain.map(|call| (*call, Vec::new())).collect();
    let not_uffd = || word(0, SeccompCmpOp::Ne, i64::from(for_.uffd));
    rules.insert(libc::SYS_close, vec![rule([not_uffd()?])?]);
    rules.insert(libc::SYS_fcntl, {
        let one = |command: &c_long| rule([not_uffd()?, word(1, SeccompCmpOp::Eq, *command)?]);
        FCNTL.iter().map(one).collect::<Result<_, _>>()?
    });
    rules.insert(libc::SYS_madvise, {
        let one = |advice: &c_long| rule([word(2, SeccompCmpOp::Eq, *advice)?]);
        ADVICE.iter().map(one).collect::<Result<_, _>>()?
    });
    rules.insert(libc::SYS_mprotect, outside(&for_.arena)?);
    let all = masked(0, THREAD)?;
    rules.insert(libc::SYS_clone, vec![rule([all])?]);
    let own = word(0, SeccompCmpOp::Eq, i64::from(for_.pid))?;
    rules.insert(libc::SYS_tgkill, vec![rule([own])?]);
    let name = word(0, SeccompCmpOp::Eq, c_long::from(libc::PR_SET_NAME))?;
    rules.insert(libc::SYS_prctl, vec![rule([name])?]);
    let mut commands = Vec::new();
    for command in for_.ioctls {
        commands.push(rule([
            not_uffd()?,
            word(1, SeccompCmpOp::Eq, i64::from(*command))?,
        ])?);
    }
    if !commands.is_empty() {
        rules.insert(libc::SYS_ioctl, commands);
    }
    Ok(rules)
}

/// Ranges (address and length as the first two arguments) that do not touch the windows. A filter cannot add; so below them
/// lies a guard, and what begins below that and is no longer than it ends before they begin.
fn outside(arena: &Range<usize>) -> Result<Vec<SeccompRule>, BackendError> {
    let address = |op, value| SeccompCondition::new(0, SeccompCmpArgLen::Qword, op, value);
    let above = rule([
        address(SeccompCmpOp::Ge, arena.end as u64)?,
        address(SeccompCmpOp::Lt, ADDRESSES)?,
    ])?;
    let short = SeccompCondition::new(1, SeccompCmpArgLen::Qword, SeccompCmpOp::Le, GUARD as u64)?;
    let below = rule([address(SeccompCmpOp::Lt, arena.start as u64)?, short])?;
    Ok(vec![above, below])
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into())
}

/// A condition on an argument of 32 bits.
fn word(arg: u8, op: SeccompCmpOp, value: c_long) -> Result<SeccompCondition, BackendError> {
    #[expect(
        clippy::cast_sign_loss,
        reason = "only its low half is compared, as bits"
    )]
    SeccompCondition::new(arg, SeccompCmpArgLen::Dword, op, value as u64 & 0xffff_ffff)
}

/// A condition that all these bits of an argument are set.
fn masked(arg: u8, bits: c_long) -> Result<SeccompCondition, BackendError> {
    #[expect(clippy::cast_sign_loss, reason = "the flags are all positive")]
    let bits = bits as u64;
    SeccompCondition::new(
        arg,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(bits),
        bits,
    )
}

fn errno(number: i32) -> u32 {
    number.unsigned_abs()
}
