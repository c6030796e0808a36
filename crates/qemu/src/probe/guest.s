# The guest that an accelerator is tried with: the first bytes of a 64 KiB ROM, at F000:0000,
# where the jump at the reset vector leads. Each step writes a letter to port 0x402. `rom.rs`
# holds the bytes; a test assembles this file and compares.
        .code16
rom:
        cli
        mov     $0x402, %dx
        mov     $'r', %al               # real mode
        out     %al, %dx
        xor     %ax, %ax
        mov     %ax, %es
        mov     $0x1000, %di            # three page tables from 0x1000 on, all zero
        mov     $0x1800, %cx
        cld
        rep stosw
        movw    $0x2003, %es:0x1000
        movw    $0x3003, %es:0x2000
        mov     $0x3000, %di            # the first 32 MiB, in pages of 2 MiB
        mov     $0x83, %eax
        mov     $16, %cx
1:      movl    %eax, %es:(%di)
        add     $0x200000, %eax
        add     $8, %di
        loop    1b
        lgdtl   %cs:(gdtr - rom)
        mov     $0x20, %eax             # CR4.PAE
        mov     %eax, %cr4
        mov     $0x1000, %eax
        mov     %eax, %cr3
        mov     $0xC0000080, %ecx
        rdmsr
        or      $0x100, %eax            # EFER.LME
        wrmsr
        mov     %cr0, %eax
        or      $0x80000001, %eax       # paging, protected mode
        mov     %eax, %cr0
        ljmpl   $8, $(0xF0000 + long - rom)
        .code64
long:   mov     $16, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x402, %edx
        mov     $'l', %al               # long mode
        out     %al, %dx
        mov     $0x400000, %edi         # a word of each page from 4 to 28 MiB
2:      mov     %rdi, (%rdi)
        add     $0x1000, %edi
        cmp     $0x1C00000, %edi
        jb      2b
        mov     $'m', %al               # memory
        out     %al, %dx
        mov     $10000000, %ecx         # numbers by xorshift, each written to memory
        mov     $0x400000, %edi
        mov     $1, %eax
3:      mov     %eax, %ebx
        shl     $13, %ebx
        xor     %ebx, %eax
        mov     %eax, %ebx
        shr     $17, %ebx
        xor     %ebx, %eax
        mov     %eax, %ebx
        shl     $5, %ebx
        xor     %ebx, %eax
        mov     %eax, (%rdi)
        dec     %ecx
        jnz     3b
        cmpl    $RESULT, (%rdi)
        jne     7f
        mov     $'w', %al               # work, with the right result
        out     %al, %dx
        mov     $1000, %esi             # reads of a port, each of which leaves the guest
4:      in      %dx, %al
        dec     %esi
        jnz     4b
        mov     $'p', %al               # ports
        out     %al, %dx
        mov     $1000, %esi             # address spaces changed
5:      mov     %cr3, %rax
        mov     %rax, %cr3
        dec     %esi
        jnz     5b
        mov     $'t', %al               # tables
        out     %al, %dx
        mov     $0x2a, %al              # ends QEMU with 2 * 0x2a + 1
        mov     $0xf4, %dx
        out     %al, %dx
7:      cli
        hlt
        jmp     7b
        .balign 8
gdt:    .quad   0
        .quad   0x00209A0000000000      # code, 64 bits
        .quad   0x0000920000000000      # data
gdtr:   .word   23
        .long   0xF0000 + gdt - rom
