# A 32-bit program, which compat.rs makes an ELF file of. AT&T syntax; at 0x08048000 when it runs, so that addresses are
# LABEL - stress_compat + 0x08048000. It prints a letter for each check that went well, and ends with 0; or with the check's number.

    .section .rodata.compat, "a", @progbits
    .code32
    .globl stress_compat, stress_compat_end
    .set BASE, 0x08048000
    .set DATA, 0x08050000            # a page for data

stress_compat:
    movl %esp, DATA+0x100

# a: a call by int 0x80, with results kept
    movl $1, %ebp
    movl $20, %eax                  # getpid
    movl $0x11111111, %ebx
    movl $0x22222222, %ecx
    movl $0x33333333, %edx
    movl $0x44444444, %esi
    movl $0x55555555, %edi
    int $0x80
    cmpl $0, %eax
    jle fail
    movl %eax, DATA+0x104
    cmpl $0x11111111, %ebx
    jne fail
    cmpl $0x22222222, %ecx
    jne fail
    cmpl $0x33333333, %edx
    jne fail
    cmpl $0x44444444, %esi
    jne fail
    cmpl $0x55555555, %edi
    jne fail
    movb $'a', %al
    call say

# b: the kernel's own way to call, which is sysenter or syscall where there are
    movl DATA+0x100, %esi
    movl (%esi), %ecx               # argc
    leal 8(%esi,%ecx,4), %esi       # behind the arguments
1:  lodsl
    testl %eax, %eax
    jnz 1b                          # behind the environment
2:  lodsl
    movl %eax, %ecx
    lodsl
    movl $2, %ebp
    testl %ecx, %ecx
    jz fail
    cmpl $32, %ecx                  # AT_SYSINFO
    jne 2b
    movl %eax, DATA+0x108
    movl $2000, %edi
3:  movl $20, %eax
    movl $0x11111111, %ebx
    movl $0x22222222, %ecx
    movl $0x33333333, %edx
    movl $0x44444444, %esi
    call *DATA+0x108
    cmpl DATA+0x104, %eax
    jne fail
    cmpl $0x11111111, %ebx
    jne fail
    cmpl $0x22222222, %ecx
    jne fail
    cmpl $0x33333333, %edx
    jne fail
    cmpl $0x44444444, %esi
    jne fail
    cmpl $2, %ebp
    jne fail
    decl %edi
    jnz 3b
    movb $'b', %al
    call say

# c: data of a thread, by set_thread_area
    movl $3, %ebp
    movl $-1, DATA+0x200            # any entry
    movl $DATA+0x300, DATA+0x204    # base
    movl $0xfffff, DATA+0x208
    movl $0x51, DATA+0x20c          # 32 bits, pages, usable
    movl $0x600df00d, DATA+0x310
    movl $243, %eax
    movl $DATA+0x200, %ebx
    int $0x80
    testl %eax, %eax
    jnz fail
    movl DATA+0x200, %eax
    leal 3(,%eax,8), %eax
    movl %eax, %gs
    movl %gs:0x10, %eax
    cmpl $0x600df00d, %eax
    jne fail
    movb $'c', %al
    call say

# d: a segment of our own in the LDT
    movl $4, %ebp
    movl $5, DATA+0x200             # entry 5
    movl $DATA+0x320, DATA+0x204
    movl $0xff, DATA+0x208          # bytes
    movl $0x41, DATA+0x20c
    movl $0x0ddba11, DATA+0x330
    movl $123, %eax                 # modify_ldt
    movl $1, %ebx
    movl $DATA+0x200, %ecx
    movl $16, %edx
    int $0x80
    testl %eax, %eax
    jnz fail
    movl $0x2f, %eax                # entry 5, LDT, ring 3
    movl %eax, %fs
    movl $500, %edi
4:  movl $158, %eax                 # sched_yield
    int $0x80
    movl %fs:0x10, %eax
    cmpl $0x0ddba11, %eax
    jne fail
    movl %gs:0x10, %eax
    cmpl $0x600df00d, %eax
    jne fail
    decl %edi
    jnz 4b
    movb $'d', %al
    call say

# e: a child has both segments, and its end is told
    movl $5, %ebp
    movl $2, %eax                   # fork
    int $0x80
    testl %eax, %eax
    js fail
    jnz 5f
    movl %fs:0x10, %ebx
    cmpl $0x0ddba11, %ebx
    jne fail
    movl %gs:0x10, %ebx
    cmpl $0x600df00d, %ebx
    jne fail
    movl $1, %eax                   # exit
    movl $77, %ebx
    int $0x80
5:  movl %eax, %ebx
    movl $DATA+0x340, %ecx
    xorl %edx, %edx
    movl $7, %eax                   # waitpid
    int $0x80
    cmpl %eax, %ebx
    jne fail
    cmpl $0x4d00, DATA+0x340
    jne fail
    movb $'e', %al
    call say

# f: handlers: of an instruction that is none, of memory that is none, of an instruction that programs must not run
    movl $6, %ebp
    movl $4, %ebx                   # SIGILL
    call handled
    ud2
    cmpl $1, DATA+0x360
    jne fail
    movl $11, %ebx                  # SIGSEGV
    call handled
    .byte 0x89, 0x03                # movl %eax, (%ebx): at 11
    cmpl $2, DATA+0x360
    jne fail
    cmpl $14, DATA+0x364            # the page fault's number
    jne fail
    hlt
    nop
    nop
    cmpl $3, DATA+0x360
    jne fail
    cmpl $13, DATA+0x364
    jne fail
    movl $5, %ebx                   # SIGTRAP: goes on by itself, and the handler skips two more
    call handled
    int3
    nop
    nop
    cmpl $4, DATA+0x360
    jne fail
    movb $'f', %al
    call say

# g: to 64-bit code and back
    movl $7, %ebp
    ljmp $0x33, $(BASE + long - stress_compat)
    .code64
long:
    movabsq $0x123456789abcdef0, %rax
    movq %rax, %r15
    shrq $32, %rax
    movl %eax, DATA+0x370
    movl $BASE + back - stress_compat, DATA+0x374
    movl $0x23, DATA+0x378
    ljmp *DATA+0x374
    .code32
back:
    cmpl $0x12345678, DATA+0x370
    jne fail
    movb $'g', %al
    call say

# h: numbers
    movl $8, %ebp
    fldpi
    fstpl DATA+0x380
    movsd DATA+0x380, %xmm3
    movl $200, %edi
6:  movl $158, %eax
    call *DATA+0x108
    movsd %xmm3, DATA+0x388
    movl DATA+0x388, %eax
    cmpl DATA+0x380, %eax
    jne fail
    decl %edi
    jnz 6b
    movb $'h', %al
    call say

# i: selectors are those of 32-bit programs
    movl $9, %ebp
    movl %cs, %eax
    cmpl $0x23, %eax
    jne fail
    movl %ss, %eax
    cmpl $0x2b, %eax
    jne fail
    movb $'i', %al
    call say

    xorl %ebp, %ebp
fail:
    movl $1, %eax                   # exit
    movl %ebp, %ebx
    int $0x80

# Has the signal in ebx handled.
handled:
    movl $BASE + handler - stress_compat, DATA+0x390
    movl $0, DATA+0x394             # mask
    movl $0, DATA+0x398             # flags
    movl $0, DATA+0x39c
    movl $67, %eax                  # sigaction
    movl $DATA+0x390, %ecx
    xorl %edx, %edx
    int $0x80
    testl %eax, %eax
    jnz fail
    ret

# Counts, notes the trap's number, and goes on two bytes behind where it was, or three where it was a general protection fault.
handler:
    incl DATA+0x360
    movl 56(%esp), %eax             # trapno: 48 in sigcontext, which is at 8
    movl %eax, DATA+0x364
    addl $2, 64(%esp)               # eip
    cmpl $13, %eax
    jne 7f
    incl 64(%esp)
7:  ret

# Prints al.
say:
    movb %al, DATA+0x3f0
    movl $4, %eax                   # write
    movl $1, %ebx
    movl $DATA+0x3f0, %ecx
    movl $1, %edx
    int $0x80
    ret

stress_compat_end:
    .code64
    .text
