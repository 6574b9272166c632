#!/bin/busybox sh
# A guest's init. Kernel parameters choose what it does:
#   demo.host=IP demo.ip=IP demo.mib=N [demo.channels=N]
#                                        works its disk (xvda, ext4) and its network interface (eth0), as the demo wants
#   shell                                a shell on the console
#   (neither)                            says what it found
# Then it switches itself off. Lines that a program may want to read begin with "guest: ".
say() { echo "guest: $*"; }

fail() {
    say "failed: $*"
    dmesg | tail -n 20
    poweroff -f
}

# seconds since boot, in hundredths
now() {
    read -r up _ < /proc/uptime
    echo "${up%.*}${up#*.}"
}

# timed NAME MIB CMD...: runs the command and says NAME=(decimal MB/s)
timed() {
    name=$1 mib=$2
    shift 2
    start=$(now)
    "$@" || fail "$name: $* ended with $?"
    took=$(($(now) - start))
    [ "$took" -gt 0 ] || took=1
    rate=$((mib * 1048576 / 10000 * 10 / took))
    say "$name=$((rate / 10)).$((rate % 10))"
}

# waits up to 15 s for a condition
wait_for() {
    left=150
    until test "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || fail "no $2"
        usleep 100000
    done
}

# data FILE MIB: one random MiB again and again, each time after a line of another number, so that no two sectors are alike.
# (No pipes: busybox's tools move a kilobyte at a time through them.)
data() {
    dd if=/dev/urandom of=/tmp/random bs=1M count=1 status=none
    count=0
    while [ $count -lt "$2" ]; do
        count=$((count + 1))
        echo $count
        cat /tmp/random
    done > "$1"
    truncate -s $(($2 * 1048576)) "$1"
}

found() {
    say "kernel $(uname -r), $(nproc) CPUs, hypervisor $(cat /sys/hypervisor/type) $(cat /sys/hypervisor/guest_type), clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
    for device in /sys/bus/xen/devices/*; do
        [ -e "$device/state" ] && say "xenbus ${device##*/}: $(cat "$device/state")"
    done
}

disk() {
    wait_for -b /dev/xvda
    mount -t ext4 /dev/xvda /mnt || fail "cannot mount xvda"
    say "disk: $(blockdev --getsize64 /dev/xvda) bytes, mounted; writing $mib MiB"
    data /mnt/data "$mib" || fail "cannot write to xvda"
    sum=$(sha256sum < /mnt/data)
    sum=${sum%% *}
    echo "$sum  data" > /mnt/data.sha256
    umount /mnt || fail "cannot unmount xvda"
    mount -t ext4 /dev/xvda /mnt || fail "cannot mount xvda again"
    (cd /mnt && sha256sum -c data.sha256) || fail "the data read back from xvda are not those written"
    say "disk_sha256=$sum"
    echo 3 > /proc/sys/vm/drop_caches
    timed disk_read_MBps "$mib" dd if=/mnt/data of=/dev/null bs=1M iflag=direct status=none
    timed disk_write_MBps "$mib" dd if=/dev/zero of=/mnt/zero bs=1M count="$mib" conv=fsync status=none
    rm /mnt/zero
}

net() {
    wait_for -d /sys/class/net/eth0
    ip link set eth0 up
    ip addr add "$ip/30" dev eth0
    ping -c 3 -i 0.2 -W 5 "$host" || fail "no answer to ping"
    wget -q -O /tmp/sample "http://$host:8080/sample" || fail "no download"
    sum=$(sha256sum < /tmp/sample)
    [ "${sum%% *}" = "$(wget -q -O - "http://$host:8080/sample.sha256")" ] || fail "what came through eth0 is not what was sent"
    say "net: ping answered, download verified"
    timed net_down_MBps $((mib / 2)) wget -q -O /dev/null "http://$host:8080/blob"
    dd if=/mnt/data of=/tmp/sample bs=1M count=$((mib / 8)) status=none
    sum=$(sha256sum < /tmp/sample)
    say "net_up_sha256=${sum%% *}"
    timed net_up_MBps $((mib / 8)) sh -c "nc $host 8081 < /tmp/sample"
}

# by which interface the kernel is told of events
evtchn() {
    case $(dmesg) in
    *"xen:events: Using FIFO-based ABI"*) say evtchn=fifo ;;
    *"xen:events: Using 2-level ABI"*) say evtchn=2l ;;
    esac
}

# opens and signals event channels
channels() {
    wait_for -c /dev/xen/evtchn
    /bin/channels "$ports" > /tmp/channels 2>&1
    code=$?
    while read -r line; do say "$line"; done < /tmp/channels
    [ $code = 0 ] || fail "channels: $(tail -n 1 /tmp/channels)"
}

/bin/busybox mount -t proc proc /proc
read -r at _ < /proc/uptime
echo "guest: init at $at s"
/bin/busybox --install -s /bin
export PATH=/bin:/sbin HOME=/root TERM=linux
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do
    insmod "/modules/$module.ko" || say "cannot load $module"
done < /modules/order

host= ip= mib=64 ports=0 shell=
for word in $(cat /proc/cmdline); do
    case $word in
    demo.host=*) host=${word#*=} ;;
    demo.ip=*) ip=${word#*=} ;;
    demo.mib=*) mib=${word#*=} ;;
    demo.channels=*) ports=${word#*=} ;;
    shell) shell=yes ;;
    esac
done

if [ -n "$host" ]; then
    disk
    net
    [ "$ports" = 0 ] || channels
    found
    evtchn
    grep -E 'CPU0|xen' /proc/interrupts
    cd /
    umount /mnt || fail "cannot unmount xvda at the end"
    say "done"
elif [ -n "$shell" ]; then
    setsid sh -c 'exec sh < /dev/hvc0 > /dev/hvc0 2>&1'
else
    sleep 1
    found
fi
poweroff -f
