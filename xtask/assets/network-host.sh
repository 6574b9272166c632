# Guests of the network demo on their host, in the lab: a bridge with their taps and the host's own address, and a wire to it that knows no offloads.
# Set by the caller: BUSYBOX CANTLE KERNEL INITRD TOOLS EMULATOR PROGRAMS WITH MEMORY VCPUS TAPS NET CMDLINE SERVER_NET SERVER_CMDLINE OPTIONS
#                    ONE_PROCESS CAPTURE PCAP REPLUG
# Lines that the caller reads begin with "host: ".
# One stream, so that lines come whole and in order; and one for the other guest.
exec 3>&2 2>&1
bb=$BUSYBOX
ip=/usr/sbin/ip
work=$($bb mktemp -d)
running=

cleanup() {
    for pid in $running; do kill "$pid" 2> /dev/null; done
    for link in lan wire $(taps); do $ip link del "$link" 2> /dev/null; done
    $bb rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 143' INT TERM HUP

fail() {
    echo "host: failed: $*"
    exit 1
}

# the names in TAPS, NAME:QUEUES…
taps() { for tap in $TAPS; do echo "${tap%:*}"; done; }

# packets that came with a wrong checksum, since the host began
csum_errors() {
    $bb awk '$1 == last { for (i = 2; i <= NF; i++) if (name[i] == "InCsumErrors") n += $i }
        { last = $1; for (i = 2; i <= NF; i++) name[i] = $i }
        $1 ~ /6InCsumErrors/ { n += $2 }
        END { print n + 0 }' /proc/net/snmp /proc/net/snmp6
}

# Each once for all guests of a lab.
for archive in $TOOLS $EMULATOR; do
    unpacked=/run/unpacked.${archive##*/}
    [ ! -e "$unpacked" ] || continue
    (cd / && $bb cpio -i -d -u < "$archive" > /dev/null 2>&1) || fail "cannot unpack $archive"
    $bb touch "$unpacked"
done
# The kernel unpacks one archive after another.
if [ ! -e /tmp/initrd ]; then
    $bb mkdir -p "$work/root/bin"
    # shellcheck disable=SC2086
    $bb cp $PROGRAMS "$work/root/bin" || fail "no $PROGRAMS"
    (cd "$work/root" && $bb find bin -type f | $bb cpio -o -H newc) > "$work/own.cpio" 2> /dev/null || fail "cannot pack $PROGRAMS"
    $bb cat "$INITRD" "$work/own.cpio" "$TOOLS" > "$work/initrd" && $bb mv "$work/initrd" /tmp/initrd || fail "cannot make the initial file system"
fi

# tcpdump stays the user that it is, whom it wants to know by name.
[ -e /etc/passwd ] || echo "root:x:0:0:root:/root:/bin/sh" > /etc/passwd
[ -e /etc/group ] || echo "root:x:0:" > /etc/group

# An address is that of one interface, and is told by no other.
echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
$ip link add lan type bridge forward_delay 0 mcast_snooping 0 || fail "cannot make a bridge"
$ip link add wire type veth peer name wire-lan || fail "cannot make a wire"
for tap in $TAPS; do
    queues=
    [ "${tap#*:}" = 1 ] || queues=multi_queue
    $ip tuntap add "${tap%:*}" mode tap $queues && $ip link set "${tap%:*}" mtu 9000 master lan up || fail "cannot make the tap ${tap%:*}"
done
# What goes into the wire has its checksum, and its proper size.
for end in wire wire-lan; do
    /usr/sbin/ethtool -K $end tx off sg off tso off gso off gro off > "$work/ethtool" 2>&1 || fail "ethtool of $end: $($bb cat "$work/ethtool")"
done
$ip link set wire-lan master lan up && $ip link set wire up || fail "cannot set the wire up"
# Given a size itself, or it has the least of its ports'.
$ip link set lan mtu 9000 up || fail "cannot set the bridge up"
for address in 10.213.78.1/24 fd00:213:78::1/64; do $ip addr add $address dev lan || fail "no address $address"; done
for address in 10.213.79.1/24 fd00:213:79::1/64; do $ip addr add $address dev wire || fail "no address $address"; done

/usr/bin/iperf3 -s -p 5201 > /dev/null 2>&1 &
running="$running $!"
traffic serve 7001 > /dev/null &
running="$running $!"
traffic spoil 7002 > /dev/null &
running="$running $!"
if [ -n "$CAPTURE" ]; then
    /usr/bin/tcpdump -Z root -i wire -B 16384 -w "$work/wire.pcap" > "$work/tcpdump" 2>&1 &
    wire=$!
    running="$running $wire"
fi
errors=$(csum_errors)

# When the guest says so, by ending this, its interface goes and, after a while, another one comes.
if [ -n "$REPLUG" ]; then
    OPTIONS="$OPTIONS --xenstore-socket $work/xenstore"
    (
        traffic serve 7003 > /dev/null
        cantle-xs --socket "$work/xenstore" write /cantle/network/control "detach 0" || fail "cannot unplug"
        $bb sleep 4
        cantle-xs --socket "$work/xenstore" write /cantle/network/control "attach $NET" || fail "cannot plug in"
        $bb sleep 4
        said=$(cantle-xs --socket "$work/xenstore" read /cantle/network/control-error 2> /dev/null) && echo "host: failed: $said"
    ) &
    running="$running $!"
fi
OPTIONS="$OPTIONS --stats json"
[ -z "$PCAP" ] || OPTIONS="$OPTIONS --pcap $PCAP"

common="console=hvc0 quiet panic=-1"

# guest NAME NET CMDLINE: runs one to its end
guest() {
    name=$1
    shift
    case $WITH in
    cantle)
        # shellcheck disable=SC2086
        "$CANTLE" run --kernel "$KERNEL" --initrd /tmp/initrd --memory "${MEMORY}M" --vcpus "$VCPUS" --cmdline "$common $2" --net "$1" --name "$name" \
            $OPTIONS < /dev/null
        ;;
    qemu)
        # shellcheck disable=SC2086
        /usr/bin/qemu-system-x86_64 -accel kvm,xen-version=0x4000a,kernel-irqchip=split -cpu host -m "$MEMORY" -smp "$VCPUS" -nodefaults -vga none \
            -display none -no-reboot -L /usr/share/qemu -L /usr/share/seabios -kernel "$KERNEL" -initrd /tmp/initrd \
            -append "$common $2 no_timer_check tsc=reliable" -chardev stdio,id=console -device xen-console,chardev=console $1 < /dev/null
        ;;
    esac
}

# described NAME NET CMDLINE: one of several in the same process
described() {
    echo "name = '$1'"
    echo "kernel = '$KERNEL'"
    echo "ramdisk = '/tmp/initrd'"
    echo "memory = $MEMORY"
    echo "vcpus = $VCPUS"
    echo "extra = '$common $3'"
    echo "vif = ['$2']"
}

echo "host: start"
if [ -n "$ONE_PROCESS" ]; then
    $bb mkfifo "$work/console"
    $bb cat "$work/console" >&3 2>&3 &
    described client "$NET" "$CMDLINE" > "$work/client.cfg"
    described server "$SERVER_NET" "$SERVER_CMDLINE" > "$work/server.cfg"
    echo "console = '$work/console'" >> "$work/server.cfg"
    $bb mkfifo "$work/ends"
    # shellcheck disable=SC2086
    "$CANTLE" run "$work/client.cfg" "$work/server.cfg" $OPTIONS < /dev/null 2> "$work/ends" &
    both=$!
    running="$running $both"
    while read -r line; do
        echo "$line"
        # One that was not told to end, since the other one failed, ends as well.
        case $line in "guest 'client'"*) ($bb sleep 20; [ -e "$work/ended" ] || kill $both) 2> /dev/null & ;; esac
    done < "$work/ends" &
    wait $both
    code=$?
    $bb touch "$work/ended"
    echo
    echo "host: server_end=$code"
elif [ -n "$SERVER_NET" ]; then
    guest server "$SERVER_NET" "$SERVER_CMDLINE" >&3 2>&3 &
    server=$!
    running="$running $server"
    guest client "$NET" "$CMDLINE"
    code=$?
    echo
    ($bb sleep 20; [ -e "$work/ended" ] || kill $server) 2> /dev/null &
    wait $server
    echo "host: server_end=$?"
    $bb touch "$work/ended"
else
    guest client "$NET" "$CMDLINE"
    code=$?
    echo
fi
if [ $code != 0 ]; then
    echo "host: end $code"
    exit 0
fi
errors=$(($(csum_errors) - errors))
[ $errors = 0 ] || fail "$errors packets came with a wrong checksum"
if [ -n "$CAPTURE" ]; then
    # All that has come is to be in the file.
    $bb sleep 1
    kill -INT $wire
    wait $wire
    /usr/bin/tcpdump -Z root -nvv -r "$work/wire.pcap" > "$work/read" 2> "$work/tcpdump" || fail "tcpdump cannot read what it captured: $($bb tail -n 1 "$work/tcpdump")"
    $bb grep -E 'incorrect|bad (udp|icmp6) cksum|bad cksum' "$work/read" > "$work/wrong"
    [ ! -s "$work/wrong" ] || fail "tcpdump finds $($bb wc -l < "$work/wrong") wrong checksums on the wire: $($bb head -n 1 "$work/wrong")"
    for kind in "tcp:cksum 0x[0-9a-f]* (correct)" "udp:udp sum ok"; do
        echo "host: wire_${kind%%:*}=$($bb grep -c "${kind#*:}" "$work/read")"
    done
    large=$(/usr/bin/tcpdump -Z root -n -r "$work/wire.pcap" greater 1515 2> /dev/null | $bb wc -l)
    [ "$large" = 0 ] || fail "$large packets on the wire are larger than its MTU"
fi
if [ -n "$PCAP" ]; then
    /usr/bin/tcpdump -Z root -n -r "$PCAP" > "$work/read" 2> "$work/tcpdump" || fail "tcpdump cannot read $PCAP: $($bb tail -n 1 "$work/tcpdump")"
    echo "host: pcap=$($bb wc -l < "$work/read")"
    $bb rm "$PCAP"
fi
echo "host: end $code"
exit 0
