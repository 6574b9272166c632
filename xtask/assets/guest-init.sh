#!/bin/busybox sh
# A guest's init. Kernel parameters choose what it does:
#   demo.host=IP demo.ip=IP demo.mib=N [demo.channels=N] [demo.transactions=N]
#                                        works its disk (xvda, ext4) and its network interface (eth0), as the demo wants
#   storage=STEP,…                       what guest-storage.sh says, which comes with it
#   network=STEP,…                       what guest-network.sh says, which comes with it
#   work=PROGRAM,…                       runs these, one after another, and says what they say
#   shell                                a shell on the console
#   (neither)                            says what it found
# MODULE.OPTION=VALUE is for a module that it loads.
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
    say "guest_type=$(cat /sys/hypervisor/guest_type)"
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

# waits up to 30 s for a command to succeed
until_so() {
    left=300
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        usleep 100000
    done
}

said_so() { grep -q "$1" "$2"; }

# the guest's own part of the tree by Debian's tools
xenstore_tools() {
    wait_for -c /dev/xen/xenbus
    domid=$(xenstore-read domid) || fail "xenstore-read domid"
    home=/local/domain/$domid
    xenstore-ls "$home" > /tmp/ls || fail "xenstore-ls $home"
    xenstore-ls -f "$home" > /tmp/ls-f || fail "xenstore-ls -f $home"
    lines=$(wc -l < /tmp/ls)
    [ "$lines" -gt 20 ] && [ "$lines" = "$(wc -l < /tmp/ls-f)" ] || fail "xenstore-ls has $lines lines, $(wc -l < /tmp/ls-f) with -f"
    for line in "$home/domid = \"$domid\"" "$home/device/vbd/51712/virtual-device = \"51712\"" \
        "$home/device/vbd/51712/state = \"4\"" "$home/device/vif/0/backend = \"/local/domain/0/backend/vif/$domid/0\""; do
        grep -qxF "$line" /tmp/ls-f || fail "xenstore-ls -f does not show $line"
    done
    # Indentation: one blank for each level below the path that was asked for.
    grep -q '^device = ""' /tmp/ls && grep -q '^   state = "4"' /tmp/ls || fail "xenstore-ls shows no tree"
    [ "$(xenstore-list device | sort | tr '\n' ' ')" = "vbd vif " ] || fail "xenstore-list device: $(xenstore-list device)"
    say "xenstore_ls=$lines"

    xenstore-write data/demo/a 1 data/demo/b 'two words' || fail "xenstore-write"
    [ "$(xenstore-read data/demo/a data/demo/b | tr '\n' ' ')" = "1 two words " ] || fail "xenstore-read"
    xenstore-exists data/demo/b && ! xenstore-exists data/demo/c || fail "xenstore-exists"
    xenstore-chmod data/demo/b "n$domid" r0 || fail "xenstore-chmod"
    xenstore-ls -p data/demo | grep -q "^b = \"two words\".*(n$domid,r0)" || fail "xenstore-ls -p: $(xenstore-ls -p data/demo)"
    xenstore-rm data/demo/b || fail "xenstore-rm"
    [ "$(xenstore-list data/demo)" = a ] || fail "xenstore-list: $(xenstore-list data/demo)"
    ! xenstore-write name other 2> /dev/null || fail "the guest could change its name"
}

# a change of the guest's own is seen by its watch
xenstore_watch() {
    xenstore-watch -n 3 data/demo > /tmp/watch &
    watcher=$!
    until_so said_so '^data/demo$' /tmp/watch || fail "a watch does not begin with an event"
    xenstore-write data/demo/watched 1 || fail "xenstore-write"
    xenstore-rm data/demo/watched || fail "xenstore-rm"
    wait $watcher || fail "xenstore-watch ended with $?"
    [ "$(tr '\n' ' ' < /tmp/watch)" = "data/demo data/demo/watched data/demo/watched " ] || fail "xenstore-watch: $(cat /tmp/watch)"
    xenstore-rm data/demo
}

# takes eth0 from its driver and gives it back; the back end's way through its states is seen by a watch.
# (Not the disk: blkfront, unlike netfront, does not say that it begins again.)
reconnect() {
    driver=/sys/bus/xen/drivers/vif
    backend=$(xenstore-read device/vif/0/backend)/state
    xenstore-watch "$backend" > /tmp/watch &
    watcher=$!
    until_so said_so state /tmp/watch || fail "a watch of $backend does not begin with an event"
    echo vif-0 > $driver/unbind || fail "cannot take vif-0 from its driver"
    until_so backend_is 6 || fail "$backend is $(xenstore-read "$backend") without a driver"
    echo vif-0 > $driver/bind || fail "cannot give vif-0 to its driver"
    until_so backend_is 4 || fail "$backend is $(xenstore-read "$backend") with the driver again"
    kill $watcher
    # Down by Closing and Closed, up by InitWait and Connected; and the event that a watch begins with.
    seen=$(grep -c state /tmp/watch)
    [ "$seen" -ge 4 ] || fail "xenstore-watch saw the host write $backend $seen times only"
    wait_for -d /sys/class/net/eth0
    ip link set eth0 up
    ip addr add "$ip/30" dev eth0
    ping -c 3 -i 0.2 -W 5 "$host" || fail "no answer to ping after the reconnection"
    say "reconnected=1"
}

backend_is() { [ "$(xenstore-read "$backend")" = "$1" ]; }

# xenstore by Debian's tools and by many transactions at once
xenstore() {
    PATH=$PATH:/usr/bin
    xenstore_tools
    xenstore_watch
    reconnect
    say "xenstore_watch=ok"
    /bin/transactions "$transactions" > /tmp/transactions 2>&1
    code=$?
    while read -r line; do say "$line"; done < /tmp/transactions
    [ $code = 0 ] || fail "transactions: $(tail -n 1 /tmp/transactions)"
}

module_options() {
    for word in $(cat /proc/cmdline); do
        case $word in "$1".*) echo "${word#*.}" ;; esac
    done
}

/bin/busybox mount -t proc proc /proc
read -r at _ < /proc/uptime
echo "guest: init at $at s"
/bin/busybox --install -s /bin
export PATH=/bin:/sbin HOME=/root TERM=linux
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do
    insmod "/modules/$module.ko" $(module_options "$module") || say "cannot load $module"
done < /modules/order

host= ip= mib=64 ports=0 transactions=0 storage= network= work= shell=
for word in $(cat /proc/cmdline); do
    case $word in
    demo.host=*) host=${word#*=} ;;
    demo.ip=*) ip=${word#*=} ;;
    demo.mib=*) mib=${word#*=} ;;
    demo.channels=*) ports=${word#*=} ;;
    demo.transactions=*) transactions=${word#*=} ;;
    storage=*) storage=${word#*=} ;;
    network=*) network=${word#*=} ;;
    work=*) work=${word#*=} ;;
    shell) shell=yes ;;
    esac
done

if [ -n "$host" ]; then
    disk
    net
    [ "$ports" = 0 ] || channels
    [ "$transactions" = 0 ] || xenstore
    found
    evtchn
    grep -E 'CPU0|xen' /proc/interrupts
    cd /
    umount /mnt || fail "cannot unmount xvda at the end"
    say "done"
elif [ -n "$storage" ]; then
    . /bin/guest-storage.sh
    say "done"
elif [ -n "$network" ]; then
    . /bin/guest-network.sh
    say "done"
elif [ -n "$work" ]; then
    found
    for program in $(echo "$work" | tr , ' '); do
        {
            "/bin/$program" 2>&1
            echo $? > /tmp/code
        } | while read -r line; do say "$line"; done
        [ "$(cat /tmp/code)" = 0 ] || fail "$program ended with $(cat /tmp/code)"
    done
    say "done"
elif [ -n "$shell" ]; then
    setsid sh -c 'exec sh < /dev/hvc0 > /dev/hvc0 2>&1'
else
    sleep 1
    found
fi
poweroff -f
