use super::*;

#[test]
fn model_specific_registers() {
    let mut guest = Guest::new();
    guest.machine.msrs.extend([
        (0x10, 0x1_2345_6789),
        (0x1b, 0xfee0_0d00),
        (0x277, 0x0007_0406_0007_0406),
        (0xc000_0080, 0xd01),
        (0xc000_0103, 3),
        (0x4b56_4d01, 5),
    ]);
    let read = |guest: &mut Guest, msr: u64| {
        guest.regs.rcx = msr | u64::MAX << 32;
        guest.run(&[0x0f, 0x32]);
        guest.regs.rdx << 32 | guest.regs.rax
    };
    assert_eq!(read(&mut guest, 0x10), 0x1_2345_6789);
    assert_eq!(
        read(&mut guest, 0x1b),
        0xfee0_0900,
        "the x2APIC is the monitor's"
    );
    assert_eq!(read(&mut guest, 0xc000_0082), 0, "LSTAR too");
    assert_eq!(read(&mut guest, 0xc000_0080), 0xd01);
    // What nobody has, what the processor has not, and what is the host's.
    for msr in [0xdead, 0x8b, 0x4b56_4d01] {
        guest.regs.rcx = msr;
        guest.fails(&[0x0f, 0x32]);
        if msr != 0x8b {
            guest.fails(&[0x0f, 0x30]);
        }
    }
}

fn write_msr(guest: &mut Guest, msr: u64, value: u64) -> Next {
    (guest.regs.rcx, guest.regs.rax, guest.regs.rdx) = (msr, value & 0xffff_ffff, value >> 32);
    guest.step(&[0x0f, 0x30])
}

#[test]
fn registers_that_are_written_through_and_others_that_stay() {
    let mut guest = Guest::new();
    guest.machine.msrs.extend([
        (0xc000_0101, 0),
        (0xc000_0082, 9),
        (0x277, 6),
        (0xc000_0103, 0),
    ]);
    assert_eq!(
        write_msr(&mut guest, 0xc000_0101, 0x7fff_0000_1000),
        Next::Resume
    );
    assert_eq!(write_msr(&mut guest, 0xc000_0103, 2), Next::Resume);
    assert_eq!(
        guest.machine.take_asked(),
        [
            Asked::WriteMsr(0xc000_0101, 0x7fff_0000_1000),
            Asked::WriteMsr(0xc000_0103, 2)
        ]
    );
    let gp = Next::Raise(13, Some(0));
    assert_eq!(write_msr(&mut guest, 0xc000_0101, 1 << 47), gp);
    // The entry of system calls is the monitor's.
    assert_eq!(write_msr(&mut guest, 0xc000_0082, 0x1234), Next::Resume);
    assert_eq!(write_msr(&mut guest, 0x176, 0x1234), Next::Resume);
    assert_eq!(write_msr(&mut guest, 0xc000_0080, 0), Next::Resume);
    assert_eq!(write_msr(&mut guest, 0x277, 6), Next::Resume);
    assert_eq!(write_msr(&mut guest, 0x277, 7), gp);
    assert_eq!(write_msr(&mut guest, 0x830, 0), gp, "an IPI of the x2APIC");
    assert_eq!(guest.machine.take_asked(), []);
}

#[test]
fn a_kernel_without_a_handler_reads_nothing() {
    let mut guest = Guest::new();
    guest.vcpu.traps[13].address = 0;
    guest.regs.rax = 7;
    guest.regs.rcx = 0xdead;
    guest.run(&[0x0f, 0x32]);
    assert_eq!(guest.regs.rax, 0);
    guest.run(&[0x0f, 0x30]);
}

#[test]
fn the_hypercall_page_goes_into_the_guests_memory_alone() {
    let mut guest = Guest::new();
    assert_eq!(write_msr(&mut guest, 0x4000_0000, 110 << 12), Next::Resume);
    let page = crate::hypercall_page::contents();
    for (word, bytes) in guest.machine.words[110 * 512..111 * 512]
        .iter()
        .zip(page.chunks(8))
    {
        assert_eq!(word.to_le_bytes(), bytes);
    }
    for value in [2 << 12, 128 << 12, 110 << 12 | 1, u64::MAX] {
        assert_eq!(
            write_msr(&mut guest, 0x4000_0000, value),
            Next::Raise(13, Some(0))
        );
    }
}

#[test]
fn swapgs_and_xsetbv() {
    let mut guest = Guest::new();
    guest
        .machine
        .msrs
        .extend([(0xc000_0101, 1), (0xc000_0102, 2)]);
    guest.run(&[0x0f, 0x01, 0xf8]);
    assert_eq!(guest.machine.msrs[&0xc000_0101], 2);
    assert_eq!(guest.machine.msrs[&0xc000_0102], 1);
    guest.machine.take_asked();
    guest.regs.rax = 7;
    guest.run(&[0x0f, 0x01, 0xd1]);
    assert_eq!(guest.machine.take_asked(), [Asked::SetXcr0(7)]);
    guest.regs.rcx = 1;
    guest.fails(&[0x0f, 0x01, 0xd1]);
    guest.regs.rcx = 0;
    guest.regs.rax = 6;
    assert_eq!(guest.step(&[0x0f, 0x01, 0xd1]), Next::Raise(13, Some(0)));
}
