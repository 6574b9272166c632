# Registers across whatever happens between them and the next look at them. Intel syntax.

    .text

# rdi: values for rax rbx rcx rdx rsi rdi rbp r8…r15; rsi: room for as many; rdx: what is to run between, by `ret` at its end.
    .globl stress_registers
stress_registers:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rsi
    push rdx
    mov rax, [rdi]
    mov rbx, [rdi + 8]
    mov rcx, [rdi + 16]
    mov rdx, [rdi + 24]
    mov rsi, [rdi + 32]
    mov rbp, [rdi + 48]
    mov r8, [rdi + 56]
    mov r9, [rdi + 64]
    mov r10, [rdi + 72]
    mov r11, [rdi + 80]
    mov r12, [rdi + 88]
    mov r13, [rdi + 96]
    mov r14, [rdi + 104]
    mov r15, [rdi + 112]
    mov rdi, [rdi + 40]
    call [rsp]
    push rdi
    mov rdi, [rsp + 16]
    mov [rdi], rax
    mov [rdi + 8], rbx
    mov [rdi + 16], rcx
    mov [rdi + 24], rdx
    mov [rdi + 32], rsi
    mov [rdi + 48], rbp
    mov [rdi + 56], r8
    mov [rdi + 64], r9
    mov [rdi + 72], r10
    mov [rdi + 80], r11
    mov [rdi + 88], r12
    mov [rdi + 96], r13
    mov [rdi + 104], r14
    mov [rdi + 112], r15
    pop rax
    mov [rdi + 40], rax
    pop rdx
    pop rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    cld
    ret

    .globl stress_ud2
stress_ud2:
    ud2
    ret

    .globl stress_int3
stress_int3:
    int3
    ret

# Until stress_stop is not 0.
    .globl stress_spin
stress_spin:
    cmp dword ptr [rip + stress_stop], 0
    je stress_spin
    ret

# One system call, whose number is in rax; its address behind the call is stress_called.
    .globl stress_call
stress_call:
    syscall
    .globl stress_called
stress_called:
    ret

# int 0x80: the 32-bit call whose number is in rax.
    .globl stress_int80
stress_int80:
    int 0x80
    ret

# rdi: 16 values of 16 bytes for xmm0…15; rsi: room for as many; rdx: how often the CPU is given up between.
    .globl stress_xmm
stress_xmm:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movups xmm\n, [rdi + \n * 16]
    .endr
1:  mov eax, 24
    syscall
    dec rdx
    jnz 1b
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movups [rsi + \n * 16], xmm\n
    .endr
    ret

# The same with 32 bytes each, in ymm0…15.
    .globl stress_ymm
stress_ymm:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovups ymm\n, [rdi + \n * 32]
    .endr
1:  mov eax, 24
    syscall
    dec rdx
    jnz 1b
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovups [rsi + \n * 32], ymm\n
    .endr
    vzeroupper
    ret

# The same with 64 bytes each, in zmm0…15.
    .globl stress_zmm
stress_zmm:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovups zmm\n, [rdi + \n * 64]
    .endr
1:  mov eax, 24
    syscall
    dec rdx
    jnz 1b
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovups [rsi + \n * 64], zmm\n
    .endr
    vzeroupper
    ret

# rdi: 8 doubles for the x87 stack; rsi: room for as many; rdx: as above; ecx: the control word, which is read back to [rsi + 64].
    .globl stress_x87
stress_x87:
    fninit
    push rcx
    fldcw [rsp]
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    fld qword ptr [rdi + \n * 8]
    .endr
1:  mov eax, 24
    syscall
    dec rdx
    jnz 1b
    .irp n, 7, 6, 5, 4, 3, 2, 1, 0
    fstp qword ptr [rsi + \n * 8]
    .endr
    mov qword ptr [rsi + 64], 0
    fnstcw [rsi + 64]
    pop rcx
    fninit
    ret

    .data
    .balign 4
    .globl stress_stop
stress_stop:
    .long 0
    .text
