use super::*;
use crate::interface::FLAG_ONE_ADDRESS_SPACE;
use crate::vcpu::Ports;

#[test]
fn ports_are_empty_and_the_kernels() {
    let mut guest = Guest::new();
    assert_eq!(guest.vcpu.iopl, 0);
    guest.regs.rax = 0x1122_3344_5566_7788;
    guest.run(&[0xec]);
    assert_eq!(guest.regs.rax, 0x1122_3344_5566_77ff);
    guest.run(&[0x66, 0xed]);
    assert_eq!(guest.regs.rax, 0x1122_3344_5566_ffff);
    guest.run(&[0xe5, 0x70]);
    assert_eq!(guest.regs.rax, 0xffff_ffff);
    guest.run(&[0xe6, 0x80]);
    guest.run(&[0xfb]);
    assert_eq!(guest.machine.take_asked(), []);
}

#[test]
fn the_timer_does_not_look_as_if_it_had_just_begun() {
    let mut guest = Guest::new();
    guest.regs.rax = 0x1234;
    guest.run(&[0xe4, 0x42]);
    assert_eq!(guest.regs.rax, 0x1200);
    guest.regs.rdx = 0x42;
    guest.run(&[0x66, 0xed]);
    assert_eq!(guest.regs.rax, 0xffff);
}

/// A program, with a bitmap of 0x88 bits in the kernel's memory that allows ports 0x80 and 0x82 to 0x87.
fn program() -> Guest {
    let mut guest = Guest::new();
    guest.machine.boot.flags = FLAG_ONE_ADDRESS_SPACE;
    guest.vcpu.in_kernel = false;
    let mut bits = [0xff_u8; 0x12];
    bits[0x10] = 0b10;
    guest.machine.write(STACK, &bits).unwrap();
    guest.vcpu.ports = Ports {
        bitmap: STACK,
        count: 0x88,
    };
    guest
}

#[test]
fn a_program_has_the_ports_of_its_bitmap() {
    let mut guest = program();
    guest.run(&[0xe6, 0x80]);
    guest.fails(&[0xe6, 0x81]);
    // All bytes of a wide access count.
    guest.fails(&[0x66, 0xe7, 0x80]);
    guest.run(&[0x66, 0xe7, 0x82]);
    guest.run(&[0xe5, 0x84]);
    guest.fails(&[0xe5, 0x85]);
    guest.regs.rdx = 0x7_0082;
    guest.run(&[0xec]);
    guest.regs.rdx = 0xffff;
    guest.fails(&[0xef]);
    assert_eq!(guest.machine.take_asked(), []);
}

#[test]
fn a_program_without_a_bitmap_has_none() {
    for ports in [
        Ports::default(),
        // It ends before, is not there, and wraps.
        Ports {
            bitmap: STACK,
            count: 0x80,
        },
        Ports {
            bitmap: 0x1000,
            count: 0x1_0000,
        },
        Ports {
            bitmap: u64::MAX,
            count: 0x1_0000,
        },
        Ports {
            bitmap: crate::interface::BOOT_INFO,
            count: 0x1_0000,
        },
    ] {
        let mut guest = program();
        guest.vcpu.ports = ports;
        guest.fails(&[0xe6, 0x80]);
        guest.fails(&[0xfa]);
        guest.vcpu.iopl = 3;
        guest.run(&[0xe6, 0x80]);
    }
}

#[test]
fn the_bitmap_is_read_on_the_kernels_tables() {
    let mut guest = program();
    guest.machine.boot.flags = 0;
    // The program sees its code and no more.
    let user = 120;
    let code = usize::try_from(L4 * 512 + 511).unwrap();
    let entry = guest.machine.words[code];
    guest.machine.put((user << 12) + 511 * 8, &[entry]);
    crate::tables::prepare_l4(&mut guest.machine, user).unwrap();
    crate::tables::prepare_l4(&mut guest.machine, L4).unwrap();
    guest.vcpu.user_l4 = user;
    guest.machine.loaded = user;
    guest.run(&[0xe6, 0x80]);
    let both = [Asked::LoadTables(L4), Asked::LoadTables(user)];
    assert_eq!(guest.machine.take_asked(), both);
    guest.regs.rip = CODE;
    assert_eq!(guest.step(&[0xe6, 0x81]), Next::Raise(13, Some(0)));
    assert_eq!(guest.machine.take_asked(), both);
}
