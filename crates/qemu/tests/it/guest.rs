//! A guest of some fifty bytes: a boot sector that counts.

/// Writes a line with a number of four hexadecimal digits to the first serial port, 18 times a
/// second, each larger by one than the last:
///
/// ```text
///         xor  %ax, %ax ; mov %ax, %ds ; mov %ax, %ss ; mov $0x7c00, %sp ; sti
///         xor  %bp, %bp
/// 1:      inc  %bp
///         mov  $0x3f8, %dx ; mov $4, %cx ; mov %bp, %bx
/// 2:      rol  $4, %bx ; mov %bl, %al ; and $15, %al ; add $'0', %al
///         cmp  $'9', %al ; jbe 3f ; add $7, %al
/// 3:      out  %al, %dx ; loop 2b
///         mov  $'\n', %al ; out %al, %dx
///         hlt                     # until the timer's next tick
///         jmp  1b
/// ```
#[rustfmt::skip]
const SECTOR: [u8; 45] = [
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xfb, 0x31, 0xed, 0x45, 0xba, 0xf8, 0x03,
    0xb9, 0x04, 0x00, 0x89, 0xeb, 0xc1, 0xc3, 0x04, 0x88, 0xd8, 0x24, 0x0f, 0x04, 0x30, 0x3c, 0x39,
    0x76, 0x02, 0x04, 0x07, 0xee, 0xe2, 0xee, 0xb0, 0x0a, 0xee, 0xf4, 0xeb, 0xdf,
];

/// The guest on a disk of a megabyte.
pub(crate) fn disk() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    disk[..SECTOR.len()].copy_from_slice(&SECTOR);
    disk[510..512].copy_from_slice(&[0x55, 0xAA]);
    disk
}
