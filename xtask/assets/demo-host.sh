# The demo on its host, in the lab or natively: a tap, two servers on it for the guest to talk to, and the guest itself.
# Set by the caller: BUSYBOX CANTLE KERNEL INITRD DISK VCPUS TAP HOST_IP MIB CMDLINE OPTIONS CHANNELS TRANSACTIONS TOOLS PROGRAMS
# INITRD is empty where a boot loader finds its own. Lines that the caller reads begin with "host: ".
# One stream, so that lines come whole and in order.
exec 2>&1
bb=$BUSYBOX
work=$($bb mktemp -d)
servers=

cleanup() {
    for pid in $servers; do kill "$pid" 2>/dev/null; done
    $bb tunctl -d "$TAP" > /dev/null 2>&1
    $bb rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 143' INT TERM HUP

fail() {
    echo "host: failed: $*"
    exit 1
}

$bb tunctl -t "$TAP" > /dev/null || fail "cannot make the tap $TAP"
$bb ip addr add "$HOST_IP/30" dev "$TAP" && $bb ip link set "$TAP" up || fail "cannot set the tap $TAP up"

$bb mkdir "$work/www"
$bb dd if=/dev/urandom of="$work/www/blob" bs=1M count=$((MIB / 2)) status=none
$bb dd if="$work/www/blob" of="$work/www/sample" bs=1M count=$((MIB / 8)) status=none
sum=$($bb sha256sum < "$work/www/sample")
echo "${sum%% *}" > "$work/www/sample.sha256"
$bb httpd -f -p "$HOST_IP:8080" -h "$work/www" &
servers="$servers $!"
# nc ends when its input does, so it gets one that does not.
$bb mkfifo "$work/input"
$bb sleep 3600 > "$work/input" &
servers="$servers $!"
$bb nc -l -p 8081 < "$work/input" > "$work/received" &
servers="$servers $!"

# What else the guest is to have goes into its initial file system: the kernel unpacks one archive after another.
if [ -n "$PROGRAMS" ]; then
    $bb mkdir -p "$work/root/bin"
    # shellcheck disable=SC2086
    $bb cp $PROGRAMS "$work/root/bin" || fail "no $PROGRAMS"
    (cd "$work/root" && $bb find bin -type f | $bb cpio -o -H newc) > "$work/programs.cpio" || fail "cannot pack $PROGRAMS"
    # shellcheck disable=SC2086
    $bb cat "$INITRD" "$work/programs.cpio" $TOOLS > "$work/initrd" || fail "cannot make the initial file system"
    INITRD=$work/initrd
fi
[ "$CHANNELS" = 0 ] || echo "host: channels_wanted=$CHANNELS"
[ "$TRANSACTIONS" = 0 ] || echo "host: transactions_wanted=$TRANSACTIONS"

echo "host: start"
# shellcheck disable=SC2086
"$CANTLE" run --kernel "$KERNEL" ${INITRD:+--initrd "$INITRD"} --memory 512M --vcpus "$VCPUS" --cmdline "$CMDLINE" \
    --disk "path=$DISK" --net "tap=$TAP,mac=00:16:3e:00:00:01" --stats json $OPTIONS < /dev/null
code=$?
sum=$($bb sha256sum "$work/received")
echo "host: net_received_sha256=${sum%% *}"
echo "host: end $code"
exit $code
