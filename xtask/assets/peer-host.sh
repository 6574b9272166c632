# A guest whose disk is measured, on its host, in the lab: with our disk, or with QEMU's on the same kernel.
# Set by the caller: BUSYBOX CANTLE KERNEL INITRD TOOLS PROGRAMS EMULATOR VOLUME IMAGES IMAGE WITH DISK CMDLINE
# Lines that the caller reads begin with "host: ".
exec 2>&1
bb=$BUSYBOX

fail() {
    echo "host: failed: $*"
    exit 1
}

# All in memory, so that what is measured is the way and not the medium; made once, the images are left in place.
if [ ! -e /tmp/initrd ]; then
    $bb mkdir -p "$IMAGES" /tmp/images /tmp/root/bin
    $bb mount -t ext4 "$VOLUME" "$IMAGES" || fail "cannot mount the images' file system"
    $bb cp "$IMAGES"/bench.* /tmp/images || fail "cannot copy the images"
    $bb umount "$IMAGES"
    (cd / && $bb cpio -i -d -u < "$EMULATOR" > /dev/null 2>&1) || fail "cannot unpack the emulator"
    # shellcheck disable=SC2086
    $bb cp $PROGRAMS /tmp/root/bin || fail "no $PROGRAMS"
    (cd /tmp/root && $bb find bin -type f | $bb cpio -o -H newc) > /tmp/own.cpio 2> /dev/null
    # shellcheck disable=SC2086
    $bb cat "$INITRD" /tmp/own.cpio $TOOLS > /tmp/initrd || fail "cannot make the initial file system"
fi

echo "host: start"
cmdline="console=hvc0 quiet panic=-1 $CMDLINE"
case $WITH in
cantle)
    # shellcheck disable=SC2086
    "$CANTLE" run --kernel "$KERNEL" --initrd /tmp/initrd --memory 640M --vcpus 1 --cmdline "$cmdline" --disk "$DISK" < /dev/null
    ;;
qemu)
    /usr/bin/qemu-system-x86_64 -accel kvm,xen-version=0x4000a,kernel-irqchip=split -cpu host -m 640 -smp 1 -nodefaults -vga none -display none \
        -no-reboot -L /usr/share/qemu -L /usr/share/seabios -kernel "$KERNEL" -initrd /tmp/initrd -append "$cmdline no_timer_check tsc=reliable" \
        -chardev stdio,id=console -device xen-console,chardev=console -drive "$DISK" < /dev/null
    ;;
esac
code=$?
echo
echo "host: end $code"
exit 0
