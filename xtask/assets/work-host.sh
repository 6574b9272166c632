# A guest without devices that runs programs of its own, on its host, in the lab.
# Set by the caller: BUSYBOX CANTLE KERNEL INITRD PROGRAMS VCPUS MEMORY CMDLINE OPTIONS
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

# The kernel unpacks one archive after another.
$bb mkdir -p "$work/root/bin"
# shellcheck disable=SC2086
$bb cp $PROGRAMS "$work/root/bin" || fail "no $PROGRAMS"
(cd "$work/root" && $bb find bin -type f | $bb cpio -o -H newc) > "$work/programs.cpio" 2> /dev/null || fail "cannot pack $PROGRAMS"
$bb cat "$INITRD" "$work/programs.cpio" > "$work/initrd" || fail "cannot make the initial file system"
# Not measured: what is read for the first time.
$bb cat "$KERNEL" > /dev/null

echo "host: start"
# shellcheck disable=SC2086
"$CANTLE" run --kernel "$KERNEL" --initrd "$work/initrd" --memory "${MEMORY}M" --vcpus "$VCPUS" --cmdline "console=hvc0 quiet panic=-1 $CMDLINE" \
    $OPTIONS < /dev/null
code=$?
echo
echo "host: end $code"
exit $code
