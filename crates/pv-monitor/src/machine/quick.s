# The short ways of a 64-bit program's system call into the kernel, and back. They do what `trap::system_call` and `iret::iret` do, where nothing is
# out of the ordinary: one address space, no event that waits, none masked in the program, a return that `sysretq` can make. Whatever is not so, or
# faults, takes the long way from its beginning, on which nothing that was done here is wrong.

    .set SCRATCH, 0
    .set IN_KERNEL, 20
    .set VCPU_INFO, 24
    .set KERNEL_SP, 32
    .set SYSCALL, 96
    .set MASKS_EVENTS, 104
    # Of vcpu_info.
    .set MASK, 1

    .section .text.stubs, "ax", @progbits

# From each vCPU's stub: the stack is empty, rip in rcx, rflags in r11, rsp in the area.
syscall_entry:
    # in_kernel and one_address_space, a byte each.
    cmpw $0x0101, (IN_KERNEL - AREA_SIZE)(%rsp)
    je quick_call
    cmpw $0x0100, (IN_KERNEL - AREA_SIZE)(%rsp)
    jne long_entry
    cmpb $1, (MASKS_EVENTS - AREA_SIZE)(%rsp)
    jne long_entry
    cmpq $0, (SYSCALL - AREA_SIZE)(%rsp)
    je long_entry

# A program's: what iretq takes, then what is used here.
    .set AREA, 56 - AREA_SIZE
    pushq $0xe039
    pushq $0
    pushq %r11
    pushq $0xe031
    pushq (SYSCALL - AREA_SIZE + 32)(%rsp)
    pushq %rax
    pushq %rdx
    movq (AREA + KERNEL_SP)(%rsp), %rdx
    andq $-16, %rdx
    subq $56, %rdx
    movq %rdx, 40(%rsp)
    # TF, DF, IOPL, NT, RF, VM, AC are not the handler's.
    andq $~0x77500, 32(%rsp)
    orq $0x202, 32(%rsp)
    movq (AREA + VCPU_INFO)(%rsp), %rax
    cmpb $0, MASK(%rax)
    jne quick_in_undo
quick_in_start:
    movq %rcx, (%rdx)
    movq %r11, 8(%rdx)
    movq %rcx, 16(%rdx)
    movq $0x33, 24(%rdx)
    movq %r11, 32(%rdx)
    movq (AREA + SCRATCH)(%rsp), %rax
    movq %rax, 40(%rdx)
    movq $0x2b, 48(%rdx)
quick_in_end:
    movq (AREA + VCPU_INFO)(%rsp), %rax
    movb $1, MASK(%rax)
    movb $1, (AREA + IN_KERNEL)(%rsp)
    swapgs
    popq %rdx
    popq %rax
    jmp leave_iretq
quick_in_undo:
    popq %rdx
    popq %rax
    addq $40, %rsp
    jmp long_entry

# The kernel's: only its return from a system call.
    .set AREA, 24 - AREA_SIZE
quick_call:
    cmpq $23, %rax
    jne long_entry
    pushq %rcx
    pushq %r11
    pushq %rdx
    movq (AREA + SCRATCH)(%rsp), %rdx
quick_out_start:
    testl $0x100, 24(%rdx)
    jz quick_out_undo
    cmpw $0x33, 40(%rdx)
    jne quick_out_undo
    cmpw $0x2b, 64(%rdx)
    jne quick_out_undo
    movq 32(%rdx), %rcx
    movq %rcx, %rax
    shrq $47, %rax
    jnz quick_out_undo
    # IF, and neither TF nor RF.
    movq 48(%rdx), %r11
    movl %r11d, %eax
    andl $0x10300, %eax
    cmpl $0x200, %eax
    jne quick_out_undo
    andl $0x250dd5, %r11d
    orl $0x202, %r11d
    movq (AREA + VCPU_INFO)(%rsp), %rax
    # A barrier with it: the host sets what is pending, and then looks at the mask.
    lock andb $0, MASK(%rax)
    cmpb $0, (%rax)
    jne quick_out_undo
    movq 56(%rdx), %rax
    movq %rax, 16(%rsp)
    movq (%rdx), %rax
quick_out_end:
    movb $0, (AREA + IN_KERNEL)(%rsp)
    swapgs
    popq %rdx
    addq $8, %rsp
    popq %rsp
    sysretq
quick_out_undo:
    popq %rdx
    popq %r11
    popq %rcx
    movl $23, %eax
    jmp long_entry

    .section .fixups, "a", @progbits
    .quad quick_in_start, quick_in_end, quick_in_undo
    .quad quick_out_start, quick_out_end, quick_out_undo
