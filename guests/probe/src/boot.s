# Where a vCPU begins, until it is in 64-bit mode on a stack of its own. AT&T syntax.

# ---- The note by which a loader finds the 32-bit entry.
    .section .note.Xen, "a", @note
    .balign 4
    .long 4                         # length of the name
    .long 8                         # length of the value
    .long 18                        # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

# ---- The first vCPU: 32-bit protected mode, no paging, EBX = start info.
    .section .text.boot, "ax", @progbits
    .code32
    .globl pvh_entry
pvh_entry:
    cli
    cld
    movl $boot_stack_top, %esp
    movl %ebx, %edi
    lgdt gdt_pointer
    call enter_paging
    ljmp $0x08, $first_long

# The others: from the trampoline, 32-bit protected mode with our GDT.
    .globl ap_entry
ap_entry:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %ss
    movl %eax, %es
    # A ticket gives each vCPU a stack: the first one to come takes the lowest.
    movl $0x2000, %eax
    lock xaddl %eax, ap_stack_next
    movl %eax, %esp
    call enter_paging
    ljmp $0x08, $ap_long

enter_paging:
    movl %cr4, %eax
    orl $0x20, %eax                 # PAE
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx          # EFER
    rdmsr
    orl $0x100, %eax                # LME
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax           # PG, PE
    movl %eax, %cr0
    ret

    .code64
first_long:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %edi, %edi
    movl $boot_stack_top, %esp
    xorl %ebp, %ebp
    call probe_main
1:  hlt
    jmp 1b

ap_long:
    movl %esp, %esp
    xorl %ebp, %ebp
    call ap_main
1:  hlt
    jmp 1b

# ---- The trampoline: copied to a page below 1 MiB, where a vCPU starts in 16-bit mode.
    .section .rodata.trampoline, "a", @progbits
    .code16
    .balign 16
    .globl trampoline_start
trampoline_start:
    cli
    movw %cs, %ax
    movw %ax, %ds
    lgdtl trampoline_gdt - trampoline_start
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x18, $ap_entry
    .balign 4
trampoline_gdt:
    .word gdt_end - gdt - 1
    .long gdt
    .globl trampoline_end
trampoline_end:
    .code64

# ---- Descriptors, and page tables that map the first 4 GiB to themselves in 2 MiB pages. Made here, since
#      a loop that fills them takes an emulated vCPU 10 ms.
    .section .data.boot, "aw", @progbits
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 0x08: 64-bit code
    .quad 0x00cf93000000ffff        # 0x10: data
    .quad 0x00cf9b000000ffff        # 0x18: 32-bit code
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
    .balign 4
ap_stack_next:
    .long ap_stacks + 0x2000

    .balign 4096
pml4:
    .quad pdpt + 0x3
    .fill 511, 8, 0
pdpt:
    .quad page_directories + 0x0003
    .quad page_directories + 0x1003
    .quad page_directories + 0x2003
    .quad page_directories + 0x3003
    .fill 508, 8, 0
page_directories:
    .set frame, 0
    .rept 2048
    .quad (frame << 21) + 0x83
    .set frame, frame + 1
    .endr

    .section .bss.stacks, "aw", @nobits
    .balign 4096
boot_stack:
    .skip 0x10000
boot_stack_top:
    .globl ap_stacks
ap_stacks:
    .skip 0x20000                   # two pages for each of 15 others, and two to spare
