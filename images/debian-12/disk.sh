#!/bin/sh
# A disk of a tree of files: GPT, GRUB's core for BIOS in a partition of its own, ext4. Without
# loop devices and mounts, so that it works in a container and, in a namespace, for any user.
# Called in the folder with rootfs.tar; SECTORS, ROOT_FIRST, ROOT_SECTORS, BOOT_FIRST and
# BOOT_SECTORS are the layout, in sectors of 512 bytes.
set -eu
# What an attempt before left; its files may be those of others in the namespace.
rm -rf root disk.raw core.img boot.img
if [ "${1:-}" = clean ]; then
  exit 0
fi

mkdir root
tar --extract --numeric-owner --same-permissions --xattrs --xattrs-include='*' --file=rootfs.tar --directory=root
rm rootfs.tar

truncate --size=$((SECTORS * 512)) disk.raw
sfdisk --quiet disk.raw <<TABLE
label: gpt
first-lba: 34
1: start=$ROOT_FIRST, size=$ROOT_SECTORS, type=linux, name=root
14: start=$BOOT_FIRST, size=$BOOT_SECTORS, type=21686148-6449-6E6F-744E-656564454649, name=bios
TABLE

# Without what GRUB 2.06 can't read, whatever this machine's mke2fs.conf turns on.
mke2fs -q -t ext4 -L cloudimg-rootfs -O '^orphan_file,^metadata_csum_seed' \
  -E "offset=$((ROOT_FIRST * 512)),root_owner=0:0" -d root disk.raw "$((ROOT_SECTORS / 2))k"
rm -rf root

grub-mkimage --format=i386-pc --output=core.img --prefix='(,gpt1)/boot/grub' \
  biosdisk part_gpt ext2 normal linux serial terminal
cp /usr/lib/grub/i386-pc/boot.img boot.img
