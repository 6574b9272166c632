# The ways into the monitor, and out of it. AT&T syntax. The numbers are those of area.rs.

    .set AREA_SIZE, 0x8000
    .set REGS, 168
    .set REGS_CS, 136

    .section .text.stubs, "ax", @progbits

    .macro save
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %rax
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    .endm

    .macro restore
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rax
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    .endm

# One entry of 16 bytes for each vector. Vector and error code share a word: the code is above.
    .balign 16
    .globl vector_entries
vector_entries:
    .set vector, 0
    .rept 256
    .balign 16
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
    shlq $32, (%rsp)
    orq $vector, (%rsp)
    .else
    pushq $vector
    .endif
    .if vector == 1 || vector == 2
    jmp moving_entry
    .else
    jmp trap_entry
    .endif
    .set vector, vector + 1
    .endr

# On a stack of their own, so that they may come at any instruction; from the guest they go on on the ordinary one.
moving_entry:
    save
    testb $3, REGS_CS(%rsp)
    jz trap_call
    movq %rsp, %rsi
    movq %rsp, %rax
    andq $-AREA_SIZE, %rax
    leaq (AREA_SIZE - REGS)(%rax), %rdi
    movl $(REGS / 8), %ecx
    rep movsq
    leaq (AREA_SIZE - REGS)(%rax), %rsp
    jmp trap_call

# From the guest the stack is as system calls leave it below. It is aligned there when the registers and one word more are on it.
trap_entry:
    save
trap_call:
    movq %rsp, %rdi
    andq $-16, %rsp
    call on_trap
# rax: where the registers to go on with are. Bit 0: by sysretq.
    .globl leave
leave:
    testb $1, %al
    jnz leave_by_sysret
    movq %rax, %rsp
    restore
    addq $8, %rsp
    .globl leave_iretq
leave_iretq:
    iretq

leave_by_sysret:
    leaq -1(%rax), %rsp
    restore
    movq 8(%rsp), %rcx
    movq 24(%rsp), %r11
    movq 32(%rsp), %rsp
    sysretq

# System calls: rip is in rcx, rflags in r11, and rsp is the guest's. Each vCPU has its own entries, which find its area relative to themselves:
# MONITOR_BASE + 2 MiB, where __image_start is MONITOR_BASE.
    .balign 32
    .globl syscall_entries
syscall_entries:
    .set number, 0
    .rept 128
    .balign 32
    movq %rsp, (__image_start + 0x200000 + number * AREA_SIZE)(%rip)
    movq (__image_start + 0x200000 + number * AREA_SIZE + 8)(%rip), %rsp
    jmp syscall_entry
    .set number, number + 1
    .endr

    .balign 32
    .globl syscall32_entries
syscall32_entries:
    .set number, 0
    .rept 128
    .balign 32
    movq %rsp, (__image_start + 0x200000 + number * AREA_SIZE)(%rip)
    movq (__image_start + 0x200000 + number * AREA_SIZE + 8)(%rip), %rsp
    jmp syscall32_entry
    .set number, number + 1
    .endr

long_entry:
    pushq $0x2b
    pushq (-AREA_SIZE + 8)(%rsp)
    pushq %r11
    pushq $0x33
    pushq %rcx
    pushq $0x100
    save
syscall_call:
    movq %rsp, %rdi
    andq $-16, %rsp
    call on_syscall
    jmp leave

syscall32_entry:
    pushq $0x2b
    pushq (-AREA_SIZE + 8)(%rsp)
    pushq %r11
    pushq $0x23
    pushq %rcx
    pushq $0x101
    save
    jmp syscall_call

# sysenter has lost rip and rsp, and left rflags but for IF; the stack is the vCPU's.
    .globl sysenter_entry
sysenter_entry:
    pushq $0x2b
    pushq $0
    pushfq
    orq $0x200, (%rsp)
    pushq $2
    popfq
    pushq $0x23
    pushq $0
    pushq $0x102
    save
    jmp syscall_call

# Copies rdx words of 8 bytes, then rcx bytes, from rsi to rdi. rax: 0, or 1 where an address could not be used.
    .globl copy_or_fault
copy_or_fault:
copy_start:
    testq %rdx, %rdx
    jz 2f
1:
    movq (%rsi), %rax
    movq %rax, (%rdi)
    addq $8, %rsi
    addq $8, %rdi
    decq %rdx
    jnz 1b
2:
    rep movsb
    xorl %eax, %eax
    ret
copy_end:
copy_fault:
    movl $1, %eax
    ret

# rdmsr of edi: rax its value, and *rsi 1; or *rsi stays as it is.
    .globl rdmsr_or_fault
rdmsr_or_fault:
    movl %edi, %ecx
rdmsr_start:
    rdmsr
rdmsr_end:
    movl %eax, %eax
    shlq $32, %rdx
    orq %rdx, %rax
    movl $1, (%rsi)
rdmsr_fault:
    ret

# wrmsr of edi, with rsi. rax: 0, or 1 where it faulted.
    .globl wrmsr_or_fault
wrmsr_or_fault:
    movl %edi, %ecx
    movl %esi, %eax
    movq %rsi, %rdx
    shrq $32, %rdx
wrmsr_start:
    wrmsr
    xorl %eax, %eax
    ret
wrmsr_end:

# xsetbv of register 0, with rdi. rax: as wrmsr.
    .globl xsetbv_or_fault
xsetbv_or_fault:
    xorl %ecx, %ecx
    movl %edi, %eax
    movq %rdi, %rdx
    shrq $32, %rdx
xsetbv_start:
    xsetbv
    xorl %eax, %eax
    ret
xsetbv_end:

# Each loads a segment register with di. rax: as wrmsr.
    .macro load_segment name
    .globl load_\name\()_or_fault
load_\name\()_or_fault:
load_\name\()_start:
    movl %edi, %\name
    xorl %eax, %eax
    ret
load_\name\()_end:
    .endm
    load_segment ds
    load_segment es
    load_segment fs
    load_segment gs

access_fault:
    movl $1, %eax
    ret

# Where a fault may be: from, to, and where to go on then.
    .section .fixups, "a", @progbits
    .quad copy_start, copy_end, copy_fault
    .quad rdmsr_start, rdmsr_end, rdmsr_fault
    .quad wrmsr_start, wrmsr_end, access_fault
    .quad xsetbv_start, xsetbv_end, access_fault
    .quad load_ds_start, load_gs_end, access_fault
    .text
