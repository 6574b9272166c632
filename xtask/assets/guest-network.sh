# What a guest does with its network interface, as part of its init (guest-init.sh), which has read network=STEP,… from the kernel's command line:
#   serve     serves others, by iperf3 and by traffic, until one of them ends it
#   speed     iperf3 with network.peer=N, network.runs=KIND_WAY_vVERSION_MTU,… for network.seconds=N each, with network.streams=N
#   offloads  traffic with network.peer=N and network.wire=N, network.kib=N both ways with all offloads and with one after the other off
#   data      the same with all offloads alone
#   replug    has the host take its interface away and give it another one, and sends data again
#   quit      ends the peer that serves
# Its addresses are the network.own=N of each network; network.queues=N is how many queues its interface has to have.

network_option() {
    for word in $(cat /proc/cmdline); do
        case $word in network."$1"=*) echo "${word#*=}" | tr , ' ' ;; esac
    done
}

# The networks: the host itself or another guest, and the host at the end of a wire that knows no offloads.
direct4=10.213.78. direct6=fd00:213:78::
wire4=10.213.79. wire6=fd00:213:79::

iperf_port=5201 traffic_port=7001 spoil_port=7002 plug_port=7003

connected() {
    wait_for -d /sys/class/net/eth0
    # No duplicates here, and no time to look for them.
    echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
    ip link set eth0 up
    for net in $direct4 $wire4; do ip addr add "$net$own/24" dev eth0 || fail "no address $net$own"; done
    for net in $direct6 $wire6; do ip -6 addr add "$net$own/64" dev eth0 || fail "no address $net$own"; done
    say "queues=$(ls -d /sys/class/net/eth0/queues/tx-* | wc -l)"
    [ -z "$peer" ] || until_so ping -q -c 1 -W 1 "$direct4$peer" > /dev/null || fail "no answer to ping from $direct4$peer"
}

# packets that came with a wrong checksum
csum_errors() {
    awk '$1 == last { for (i = 2; i <= NF; i++) if (name[i] == "InCsumErrors") n += $i }
        { last = $1; for (i = 2; i <= NF; i++) name[i] = $i }
        $1 ~ /6InCsumErrors/ { n += $2 }
        END { print n + 0 }' /proc/net/snmp /proc/net/snmp6
}

# run KIND WAY VERSION MTU: says KIND_WAY_vVERSION_MTU=(decimal MB/s that arrived), for UDP with the percentage that did not
run() {
    kind=$1 way=$2 version=$3 mtu=$4
    ip link set eth0 mtu "$mtu" || fail "no MTU of $mtu"
    case $version in
    v4) address=$direct4$peer headers=28 ;;
    v6) address=$direct6$peer headers=48 ;;
    esac
    set -- -c "$address" -p $iperf_port -f k -t "$seconds" -P "$streams" --connect-timeout 10000
    [ "$kind" = tcp ] || set -- "$@" -u -b "$((udp_mbit / streams))M" -l $((mtu - headers))
    [ "$way" = up ] || set -- "$@" -R
    timeout $((seconds + 30)) /usr/bin/iperf3 "$@" > /tmp/iperf 2>&1
    code=$?
    rate=$(awk '/receiver/ { for (i = 2; i <= NF; i++) { if ($i == "Kbits/sec") rate = $(i - 1); if ($i ~ /%\)/) lost = " " substr($i, 2, length($i) - 3) } }
        END { if (rate > 0) printf "%.2f%s", rate / 8000, lost }' /tmp/iperf)
    [ $code = 0 ] && [ -n "$rate" ] || fail "iperf3 $* ended with $code: $(tail -n 3 /tmp/iperf | tr '\n' ' ')"
    say "${kind}_${way}_${version}_$mtu=$rate"
}

speed() {
    udp_mbit=$(network_option udp)
    for name in $(network_option runs); do
        run $(echo "$name" | tr _ ' ')
    done
    ip link set eth0 mtu 1500
}

feature() { ethtool -k eth0 | awk -v name="$1:" '$1 == name { print $2 }'; }

# wants FEATURE on|off
wants() { [ "$(feature "$1")" = "$2" ] || fail "ethtool -k: $1 is $(feature "$1"), not $2"; }

# checked WHAT: data both ways by both versions, the short way and over the wire
checked() {
    for address in $direct4$peer $direct6$peer ${wire:+$wire4$wire $wire6$wire}; do
        case $address in
        $wire4* | $wire6*) size=$((kib / 4)) ;;
        *) size=$kib ;;
        esac
        traffic check "$address" $traffic_port "$size" > /tmp/traffic 2>&1 || fail "with $1: $(tail -n 1 /tmp/traffic)"
    done
    say "with $1: $(tail -n 1 /tmp/traffic)"
}

offloads() {
    for name in rx-checksumming tx-checksumming scatter-gather tcp-segmentation-offload tx-tcp-segmentation tx-tcp6-segmentation \
        generic-segmentation-offload generic-receive-offload; do
        wants $name on
    done
    say "features=$(ethtool -k eth0 | grep -c ': on')"
    # What cannot fail says nothing: there, the last byte is wrong.
    ! traffic check "$direct4$peer" $spoil_port 64 > /tmp/traffic || fail "a wrong byte goes unnoticed"
    checked "all offloads"
    toggled=0
    # xen-netfront has checksums of IPv4 always on, so that "tx" is IPv6's.
    for pair in tso:tcp-segmentation-offload tx-tcp6-segmentation:tx-tcp6-segmentation gso:generic-segmentation-offload sg:scatter-gather \
        tx-checksum-ipv6:tx-checksum-ipv6 gro:generic-receive-offload; do
        short=${pair%:*} long=${pair#*:}
        ethtool -K eth0 "$short" off > /tmp/ethtool 2>&1 || fail "ethtool -K eth0 $short off: $(cat /tmp/ethtool)"
        wants "$long" off
        checked "$short off"
        ethtool -K eth0 "$short" on > /tmp/ethtool 2>&1 || fail "ethtool -K eth0 $short on: $(cat /tmp/ethtool)"
        wants "$long" on
        toggled=$((toggled + 1))
    done
    # All at once.
    ethtool -K eth0 tx off sg off tso off gso off gro off > /tmp/ethtool 2>&1
    for name in scatter-gather tcp-segmentation-offload generic-segmentation-offload tx-checksum-ipv6; do wants $name off; done
    checked "all off"
    ethtool -K eth0 tx on sg on tso on gso on gro on > /tmp/ethtool 2>&1
    for name in scatter-gather tcp-segmentation-offload generic-segmentation-offload tx-checksum-ipv6; do wants $name on; done
    checked "all on again"
    say "toggled=$toggled"
}

serve() {
    /usr/bin/iperf3 -s -p $iperf_port > /dev/null 2>&1 &
    say "serving"
    traffic serve $traffic_port > /tmp/traffic 2>&1 || fail "traffic: $(tail -n 1 /tmp/traffic)"
}

replug() {
    traffic quit "$direct4$peer" $plug_port > /tmp/traffic || fail "cannot tell the host: $(cat /tmp/traffic)"
    until_so test ! -e /sys/class/net/eth0 || fail "the interface does not go"
    say "unplugged"
    until_so test -e /sys/class/net/eth0 || fail "no interface comes"
    connected
    checked "another interface"
    say "plugged=1"
}

quit() {
    traffic quit "$direct4$peer" $traffic_port > /tmp/traffic || fail "cannot end the peer: $(cat /tmp/traffic)"
}

PATH=$PATH:/usr/bin:/usr/sbin
own=$(network_option own) peer=$(network_option peer) wire=$(network_option wire)
seconds=$(network_option seconds) streams=$(network_option streams) kib=$(network_option kib)
ip link set lo up
connected
for step in $(echo "$network" | tr , ' '); do
    case $step in
    serve) serve ;;
    speed) speed ;;
    offloads) offloads ;;
    data) checked "all offloads" ;;
    replug) replug ;;
    quit) quit ;;
    *) fail "no such step: $step" ;;
    esac
done
# what TCP sent again, and how often it had waited for an answer in vain
say "retransmitted=$(awk '/^Tcp: [0-9]/ { print $13 }' /proc/net/snmp)"
say "timeouts=$(awk '$1 == last { for (i = 2; i <= NF; i++) if (name[i] == "TCPTimeouts") print $i } { last = $1; for (i = 2; i <= NF; i++) name[i] = $i }' /proc/net/netstat)"
errors=$(csum_errors)
[ "$errors" = 0 ] || fail "$errors packets came with a wrong checksum"
say "csum_errors=$errors"
! dmesg | grep -E 'NETDEV WATCHDOG|eth0: bad' > /tmp/complaints || fail "the kernel: $(head -n 1 /tmp/complaints)"
