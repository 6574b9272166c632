#!/bin/busybox sh
# A lab host's init: makes the machine ready, then runs the jobs that come in through the "ctl" port, one after another.
# A job comes as a line "job TOKEN LENGTH" (or "job-with-input": then it reads the "in" port) and LENGTH bytes of shell script. Its output goes to the "out" and "err" ports;
# each ends with the byte 0x1e, the token and the exit code, so that the reader knows that it has all of it.
/bin/busybox --install -s /bin
export PATH=/usr/local/bin:/bin:/sbin HOME=/root TERM=dumb
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for folder in /tmp /run /dev/shm; do mount -t tmpfs tmpfs $folder; done
ln -s /proc/self/fd /dev/fd

while read -r module; do
    insmod "/modules/$module.ko" || echo "lab: cannot load $module"
done < /modules/order

mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /share
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,ro,cache=loose guests /guests
ip link set lo up
hostname lab
ulimit -n 65536
ulimit -c 0
echo 4 > /proc/sys/kernel/printk

mkdir /dev/virtio-ports
for port in /sys/class/virtio-ports/*; do
    read -r name < "$port/name"
    ln -s "../${port##*/}" "/dev/virtio-ports/$name"
done
exec 3<> /dev/virtio-ports/ctl 6< /dev/virtio-ports/in 4> /dev/virtio-ports/out 5> /dev/virtio-ports/err
cd /share
read -r up _ < /proc/uptime
echo "ready $up" >&3
while read -r word token length <&3; do
    case $word in
    job) exec 7< /dev/null ;;
    job-with-input) exec 7<&6 ;;
    *) break ;;
    esac
    head -c "$length" <&3 > /run/job
    sh /run/job <&7 >&4 2>&5 3>&- 6<&- 7<&-
    code=$?
    printf '\036%s %d\n' "$token" $code >&4
    printf '\036%s %d\n' "$token" $code >&5
done
poweroff -f
