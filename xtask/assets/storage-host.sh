# A guest of the storage demo on its host, in the lab, where the images are on a file system of their own.
# Set by the caller: BUSYBOX CANTLE KERNEL INITRD TOOLS PROGRAMS HISTORY VCPUS CMDLINE VOLUME IMAGES DISKS OPTIONS KILL_AFTER COPIES
# Lines that the caller reads begin with "host: ".
# One stream, so that lines come whole and in order.
exec 2>&1
bb=$BUSYBOX
work=$($bb mktemp -d)

cleanup() {
    $bb rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 143' INT TERM HUP

fail() {
    echo "host: failed: $*"
    exit 1
}

$bb mkdir -p "$IMAGES"
$bb mount -t ext4 "$VOLUME" "$IMAGES" || fail "cannot mount the images' file system"

# What the guest is to have goes into its initial file system: the kernel unpacks one archive after another.
$bb mkdir -p "$work/root/bin" "$work/root/etc"
# shellcheck disable=SC2086
$bb cp $PROGRAMS "$work/root/bin" || fail "no $PROGRAMS"
echo "$HISTORY" > "$work/root/etc/history"
(cd "$work/root" && $bb find bin etc -type f | $bb cpio -o -H newc) > "$work/own.cpio" || fail "cannot pack $PROGRAMS"
# shellcheck disable=SC2086
$bb cat "$INITRD" "$work/own.cpio" $TOOLS > "$work/initrd" || fail "cannot make the initial file system"

echo "host: start"
$bb mkfifo "$work/said"
# shellcheck disable=SC2086
$bb setsid "$CANTLE" run --kernel "$KERNEL" --initrd "$work/initrd" --memory 640M --vcpus "$VCPUS" \
    --cmdline "console=hvc0 quiet panic=-1 $CMDLINE" $DISKS $OPTIONS < /dev/null > "$work/said" 2>&1 &
cantle=$!
if [ "$KILL_AFTER" != 0 ]; then
    $bb tee "$work/console" < "$work/said" &
    until $bb grep -q "guest: writing" "$work/console" 2> /dev/null; do
        $bb kill -0 $cantle || break
        $bb usleep 50000
    done
    $bb usleep $((KILL_AFTER * 1000))
    # All of its processes, should it have several.
    $bb kill -9 -$cantle || fail "it had ended before it was killed"
else
    $bb cat "$work/said" &
fi
said=$!
wait $cantle
code=$?
wait $said
echo
for image in $COPIES; do
    $bb cp "$IMAGES/$image" "$IMAGES/$image.killed" || fail "cannot copy $image"
done
$bb umount "$IMAGES" || fail "cannot unmount the images' file system"
echo "host: end $code"
exit 0
