//! GRUB's boot sector and core in a disk's file, as `grub-bios-setup` puts them there; that
//! program wants a device.
//!
//! The boot sector loads one sector, the core's first; that one has a list of where the rest
//! is. Both are told in sectors of the whole disk. Offsets are those of GRUB 2's
//! `include/grub/i386/pc/boot.h` and `include/grub/offsets.h`, the same since 2009.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use clawfarm_files::io_error;
use clawfarm_model::{Code, Error, Result};

const SECTOR: usize = 512;
/// Up to here the boot sector is code; behind it are the disk's mark and the partition table.
const CODE_END: usize = 0x1b8;
/// Where the boot sector has the sector of the core, in 8 bytes.
const CORE_AT: usize = 0x5c;
/// Where it has a jump over a check which disk it was read from. Hard disks get the check: some
/// firmware says 0.
const CHECK_AT: usize = 0x66;
const NOP: u8 = 0x90;
/// Where the core's first sector lists the rest: 8 bytes of its first sector, 2 of how many,
/// 2 of the segment that it is loaded to.
const LIST_AT: usize = SECTOR - 12;
/// The segment that it is loaded to: 0x8200.
const SEGMENT: u16 = 0x820;

/// Puts `boot.img` and `core.img` of `folder` into `disk.raw` beside them; the core from sector
/// `first` on, where it has `room` sectors.
pub(super) fn install(folder: &Path, first: u64, room: u64) -> Result<()> {
    let told = |error| io_error("make a disk bootable", error);
    let boot = std::fs::read(folder.join("boot.img")).map_err(told)?;
    let core = std::fs::read(folder.join("core.img")).map_err(told)?;
    let disk = File::options().read(true).write(true).open(folder.join("disk.raw")).map_err(told)?;
    let mut sector = [0; SECTOR];
    disk.read_exact_at(&mut sector, 0).map_err(told)?;
    let core = place(&mut sector, &boot, core, first, room)?;
    disk.write_all_at(&core, first * SECTOR as u64).map_err(told)?;
    disk.write_all_at(&sector, 0).map_err(told)?;
    disk.sync_all().map_err(told)
}

/// Fills in the disk's first sector; the core as it is to be written.
fn place(
    sector: &mut [u8; SECTOR],
    boot: &[u8],
    mut core: Vec<u8>,
    first: u64,
    room: u64,
) -> Result<Vec<u8>> {
    let other = |why: &str| {
        Error::new(Code::Unsupported, format!("this machine's GRUB is not as it is known here: {why}"))
            .fix("install Debian's or Ubuntu's grub-pc-bin, of version 2")
    };
    if boot.len() != SECTOR || boot[CHECK_AT] != 0xeb {
        return Err(other("its boot sector is laid out otherwise"));
    }
    core.resize(core.len().next_multiple_of(SECTOR), 0);
    let sectors = core.len() / SECTOR;
    if sectors < 2 || core[LIST_AT + 10..SECTOR] != SEGMENT.to_le_bytes() {
        return Err(other("its core is laid out otherwise"));
    }
    let rest = u16::try_from(sectors - 1).map_err(|_| other("its core is too large"))?;
    if sectors as u64 > room {
        return Err(other("its core does not fit before the first partition"));
    }
    sector[..CODE_END].copy_from_slice(&boot[..CODE_END]);
    sector[CORE_AT..CORE_AT + 8].copy_from_slice(&first.to_le_bytes());
    sector[CHECK_AT..CHECK_AT + 2].copy_from_slice(&[NOP, NOP]);
    core[LIST_AT..LIST_AT + 8].copy_from_slice(&(first + 1).to_le_bytes());
    core[LIST_AT + 8..LIST_AT + 10].copy_from_slice(&rest.to_le_bytes());
    Ok(core)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot() -> Vec<u8> {
        let mut boot = vec![0x11; SECTOR];
        boot[CHECK_AT] = 0xeb;
        boot
    }

    fn core(len: usize) -> Vec<u8> {
        let mut core = vec![0x22; len];
        core[LIST_AT + 10..SECTOR].copy_from_slice(&SEGMENT.to_le_bytes());
        core
    }

    #[test]
    fn the_boot_sector_leads_to_the_core_and_the_partition_table_stays() {
        let mut sector = [0x33; SECTOR];
        let placed = place(&mut sector, &boot(), core(1300), 34, 2014).unwrap();
        assert_eq!(placed.len(), 3 * SECTOR);
        assert_eq!(sector[CODE_END..], [0x33; SECTOR - CODE_END]);
        assert_eq!(sector[CORE_AT..CORE_AT + 8], 34_u64.to_le_bytes());
        assert_eq!(sector[CHECK_AT..CHECK_AT + 2], [NOP, NOP]);
        assert_eq!(placed[LIST_AT..LIST_AT + 8], 35_u64.to_le_bytes());
        assert_eq!(placed[LIST_AT + 8..LIST_AT + 10], 2_u16.to_le_bytes());
    }

    #[test]
    fn another_boot_loader_is_refused() {
        let mut sector = [0; SECTOR];
        for (boot, core, room) in [
            (vec![0; SECTOR], core(1300), 2014),
            (vec![0xeb; 100], core(1300), 2014),
            (boot(), vec![0; 1300], 2014),
            (boot(), core(512), 2014),
            (boot(), core(1300), 2),
            (boot(), core(SECTOR * 70_000), u64::MAX),
        ] {
            assert_eq!(place(&mut sector, &boot, core, 34, room).unwrap_err().code(), Code::Unsupported);
            assert_eq!(sector, [0; SECTOR]);
        }
    }
}
