#!/bin/sh
# Before the kernel is installed, so that its initrd is made once: with what a virtual machine's
# disk needs and nothing else, because every MiB is unpacked at each boot.
set -eu
root=$1
mkdir -p "$root/etc/initramfs-tools/conf.d" "$root/etc/initramfs-tools/hooks"
cat >"$root/etc/initramfs-tools/conf.d/clawfarm" <<'CONF'
MODULES=list
COMPRESS=zstd
FSTYPE=ext4
CONF
cat >"$root/etc/initramfs-tools/hooks/clawfarm" <<'HOOK'
#!/bin/sh
[ "$1" != prereqs ] || exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_pci virtio_blk virtio_scsi sd_mod ext4 crc32c_generic crc32c_intel
HOOK
chmod 755 "$root/etc/initramfs-tools/hooks/clawfarm"
