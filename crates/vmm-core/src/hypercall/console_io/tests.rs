use std::io::{Read, Seek};
use std::time::{Duration, Instant};

use cantle_abi::xen::__HYPERVISOR_console_io;

use super::*;
use crate::outcome::End;
use crate::test_utils::{ARGS, Harness, MEMORY};

fn write(h: &Harness, count: u64, at: u64) -> i64 {
    h.call(
        0,
        __HYPERVISOR_console_io,
        &[CONSOLEIO_write.into(), count, at],
    )
}

fn with_file() -> Option<(Harness, std::fs::File)> {
    let file = tempfile::tempfile().unwrap();
    let harness = Harness::with_console(file.try_clone().unwrap().into())?;
    Some((harness, file))
}

fn text(mut file: &std::fs::File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn kvm_everything_up_to_the_limit_is_written() {
    let Some((h, file)) = with_file() else { return };
    let all: Vec<u8> = (0..=u8::MAX).cycle().take(64 << 10).collect();
    h.put(ARGS, &all[..]);
    assert_eq!(write(&h, 5, ARGS + 1), 0);
    assert_eq!(text(&file), [1, 2, 3, 4, 5]);
    assert_eq!(write(&h, 0, MEMORY), 0);
    assert_eq!(write(&h, MOST.into(), ARGS), 0);
    assert_eq!(text(&file)[5..], all);
    for count in [u64::from(MOST) + 1, u64::from(u32::MAX)] {
        assert_eq!(write(&h, count, ARGS), Errno::E2BIG.to_ret());
    }
}

#[test]
fn kvm_what_cannot_be_read_ends_the_writing() {
    let Some((h, file)) = with_file() else { return };
    h.put(Harness::pte(ARGS + 0x1000), &0_u64);
    assert_eq!(write(&h, 0x100, ARGS + 0xff8), Errno::EFAULT.to_ret());
    assert_eq!(write(&h, 1, u64::MAX), Errno::EFAULT.to_ret());
    assert_eq!(text(&file), []);
}

#[test]
fn kvm_there_is_nothing_to_read_and_nothing_else_to_do() {
    let Some(h) = Harness::new() else { return };
    let call = |cmd: u32| h.call(0, __HYPERVISOR_console_io, &[cmd.into(), 16, ARGS]);
    assert_eq!(call(CONSOLEIO_read), 0);
    assert_eq!(call(2), Errno::ENOSYS.to_ret());
}

/// A vCPU's thread that waits for a full pipe is interrupted when the domain ends; it must not go on to a write that waits.
#[test]
fn kvm_an_interrupted_wait_for_the_output_does_not_block_the_end() {
    crate::kvm::vcpu::install_kick_handler().unwrap();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let Some(h) = Harness::with_console(writer) else {
        return;
    };
    let h = std::sync::Arc::new(h);
    let thread = std::thread::spawn({
        let h = h.clone();
        move || write(&h, 16, ARGS)
    });
    let until = Instant::now() + Duration::from_secs(10);
    h.domain().end(End::Destroyed);
    while !thread.is_finished() && Instant::now() < until {
        crate::kvm::vcpu::interrupt(&thread);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(thread.is_finished());
    drop(reader);
}
