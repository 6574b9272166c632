use super::*;

fn push(guest: &mut Guest, words: &[u64]) {
    let at = guest.regs.rsp;
    guest.machine.write(at, words.as_bytes()).unwrap();
}

#[test]
fn the_kernel_returns_to_itself() {
    for cs in [0x10, 0xe030, 0xe031, 0xe033] {
        let mut guest = Guest::new();
        push(
            &mut guest,
            &[CODE + 0x500, cs, u64::MAX, STACK + 0x900, 0x18],
        );
        assert_eq!(guest.step(&[0x48, 0xcf]), Next::Resume);
        assert_eq!(guest.regs.rip, CODE + 0x500);
        assert_eq!(guest.regs.rsp, STACK + 0x900);
        assert_eq!(guest.regs.rflags & 0x7000, 0, "neither IOPL nor NT");
        assert_ne!(guest.regs.rflags & 0x200, 0, "IF");

        let mut guest = Guest::new();
        push(&mut guest, &[CODE + 0x500, cs]);
        assert_eq!(guest.step(&[0x48, 0xca, 8, 0]), Next::Resume);
        assert_eq!(guest.regs.rip, CODE + 0x500);
        assert_eq!(guest.regs.rsp, STACK + 0x818);
    }
}

/// Returns that fault in ring 0 on what the guest gave (the `sysret` and `iret` games) are not begun.
#[test]
fn no_return_goes_to_an_address_that_is_none_or_to_a_program() {
    let mut guest = Guest::new();
    for (rip, cs) in [(1 << 47, 0x10), (CODE, 0x33), (CODE, 0xe023)] {
        push(&mut guest, &[rip, cs, 0x202, STACK, 0x2b]);
        guest.fails(&[0x48, 0xcf]);
        guest.fails(&[0x48, 0xcb]);
    }
    guest.regs.rsp = 0x1000;
    guest.fails(&[0x48, 0xcf]);
    guest.fails(&[0xcb]);
}

#[test]
fn the_kernels_stack_segment_stays_whatever_it_loads() {
    let mut guest = Guest::new();
    guest.regs.error = 0x18;
    guest.run(&[0x8e, 0xd0]);
    assert_eq!(guest.regs.ss, 0);
    // Another segment that cannot be loaded is the guest's to hear of.
    guest.regs.rip = CODE;
    assert_eq!(guest.step(&[0x8e, 0xd8]), Next::Raise(13, Some(0x18)));
}
