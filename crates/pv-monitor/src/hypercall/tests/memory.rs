use super::*;
use cantle_abi::DomId;
use cantle_abi::memory::*;

fn reservation(guest: &mut Guest, extents: u64) {
    guest.put(
        PAGE,
        &XenMemoryReservation {
            extent_start: PAGE + 0x1000,
            nr_extents: extents,
            extent_order: 0,
            mem_flags: 0,
            domid: DomId::SELF,
            pad: [0; 3],
        },
    );
}

fn call(guest: &mut Guest, command: u32, answers: &[i64]) -> (i64, Vec<u64>) {
    guest.machine.answers = answers.iter().rev().map(|a| a.cast_unsigned()).collect();
    let result = guest.call(__HYPERVISOR_memory_op, [u64::from(command), PAGE, 0, 0, 0]);
    let commands = guest.asked().into_iter().filter_map(|asked| match asked {
        Asked::Forward(_, [command, ..]) => Some(command),
        _ => None,
    });
    (result, commands.collect())
}

#[test]
fn a_list_that_the_host_has_begun_is_gone_on_with() {
    let mut guest = Guest::new();
    reservation(&mut guest, 512);
    for op in [
        XENMEM_decrease_reservation,
        XENMEM_increase_reservation,
        XENMEM_populate_physmap,
    ] {
        let number = u64::from(op);
        let done = call(&mut guest, op, &[1, 300, 512]);
        assert_eq!(
            done,
            (512, std::vec![number, 1 << 6 | number, 300 << 6 | number])
        );
        // All at once, none, and an error.
        assert_eq!(call(&mut guest, op, &[512]), (512, std::vec![number]));
        assert_eq!(call(&mut guest, op, &[0]), (0, std::vec![number]));
        assert_eq!(call(&mut guest, op, &[-22]), (-22, std::vec![number]));
        // Some, and then no more.
        let some = call(&mut guest, op, &[7, 7]);
        assert_eq!(some, (7, std::vec![number, 7 << 6 | number]));
        // From where the guest says.
        let rest = call(&mut guest, op | 9 << 6, &[9]);
        assert_eq!(rest, (9, std::vec![9 << 6 | number]));
    }
}

#[test]
fn other_operations_are_called_once() {
    let mut guest = Guest::new();
    reservation(&mut guest, 512);
    let once = call(&mut guest, XENMEM_current_reservation, &[5, 6]);
    assert_eq!(once, (5, std::vec![u64::from(XENMEM_current_reservation)]));
}

#[test]
fn a_host_that_goes_back_ends_it() {
    let mut guest = Guest::new();
    reservation(&mut guest, 512);
    let op = XENMEM_decrease_reservation;
    assert_eq!(call(&mut guest, op, &[20, 3]).0, 3);
}
