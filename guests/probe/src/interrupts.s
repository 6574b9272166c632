# Entries of the interrupt table. AT&T syntax.

    .section .text.interrupts, "ax", @progbits

# One entry of 16 bytes for each exception; those without an error code push a zero in its place.
    .balign 16
    .globl exception_entries
exception_entries:
    .set vector, 0
    .rept 32
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
    pushq $0
    .endif
    pushq $vector
    jmp exception_common
    .set vector, vector + 1
    .endr

    .macro save
    push %rax
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    .endm

    .macro restore
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rax
    .endm

# The CPU aligns the stack and pushes five words; with the two of the entry and nine registers it is aligned again.
exception_common:
    save
    movq %rsp, %rdi
    call on_exception
    restore
    addq $16, %rsp
    iretq

    .balign 16
    .globl upcall_entry
upcall_entry:
    subq $16, %rsp
    save
    call on_upcall
    restore
    addq $16, %rsp
    .globl spurious_entry
spurious_entry:
    iretq
