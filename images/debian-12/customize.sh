#!/bin/sh
# What a distribution's own cloud image has beside its packages.
set -eu
root=$1

echo 'LABEL=cloudimg-rootfs / ext4 defaults 0 1' >"$root/etc/fstab"
echo localhost >"$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"

# Each virtual machine gets its own, from cloud-init.
rm -f "$root"/etc/ssh/ssh_host_*

# The seed is the one source that is looked for; where packages come from stays as it was when
# this was made; one kind of host key is enough, and RSA takes an emulated processor long.
cat >"$root/etc/cloud/cloud.cfg.d/90_clawfarm.cfg" <<'CLOUD'
datasource_list: [NoCloud, None]
apt: {preserve_sources_list: true}
ssh_genkeytypes: [ed25519]
system_info: {network: {renderers: [networkd]}}
CLOUD

# GRUB has its modules with it. The kernel's package keeps the two links, so a newer kernel needs
# nothing of GRUB's in here.
mkdir -p "$root/boot/grub"
cat >"$root/boot/grub/grub.cfg" <<'GRUB'
serial --unit=0 --speed=115200
terminal_output serial console
linux /vmlinuz root=LABEL=cloudimg-rootfs ro console=tty0 console=ttyS0,115200
initrd /initrd.img
boot
GRUB

chroot "$root" systemctl --quiet enable systemd-networkd systemd-resolved
# Nothing is to begin by itself in a virtual machine that may be suspended at any time.
chroot "$root" systemctl --quiet disable apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer
