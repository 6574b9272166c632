#!/bin/busybox sh
# The init of a host of Xen's: starts Xen's daemons, and a PV guest as often as the kernel parameter rounds=N says, one after another.
# The guest's files are /guest/vmlinuz and /guest/initrd; its kernel gets what is in /guest/cmdline.
# Lines that a program may want to read begin with "xen: ".
/bin/busybox --install -s /bin
programs=/usr/lib/xen-4.20/bin
export PATH=/bin:/sbin:$programs HOME=/root TERM=dumb
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
exec < /dev/console > /dev/console 2>&1
mkdir -p /dev/pts /dev/shm /var/log/xen /var/lib/xen /etc/xen
mount -t devpts devpts /dev/pts
for folder in /tmp /run /dev/shm; do mount -t tmpfs tmpfs $folder; done
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s ../run /var/run
mkdir -p /run/xen /run/xenstored /run/lock
: > /etc/xen/xl.conf
ln -s ../run/lock /var/lock
echo 4 > /proc/sys/kernel/printk

fail() {
    echo "xen: failed: $*"
    poweroff -f
    sleep 60
}

while read -r module; do
    insmod "/modules/$module.ko" || echo "cannot load $module"
done < /modules/order
mount -t xenfs xenfs /proc/xen || fail "no xenfs"
xenstored || fail "xenstored ended with $?"
left=100
until [ -S /run/xenstored/socket ]; do
    left=$((left - 1))
    [ $left -gt 0 ] || fail "xenstored has no socket"
    usleep 100000
done
xen-init-dom0 || fail "xen-init-dom0 ended with $?"
xenconsoled || fail "xenconsoled ended with $?"

rounds=1
for word in $(cat /proc/cmdline); do
    case $word in rounds=*) rounds=${word#*=} ;; esac
done
cat > /run/guest.cfg << END
name = "guest"
type = "pv"
kernel = "/guest/vmlinuz"
ramdisk = "/guest/initrd"
memory = 512
vcpus = 1
extra = "$(cat /guest/cmdline)"
on_poweroff = "destroy"
on_crash = "destroy"
END
# Not measured: what is read for the first time.
cat /guest/vmlinuz /guest/initrd > /dev/null
while [ "$rounds" -gt 0 ]; do
    read -r begun _ < /proc/uptime
    xl create -c /run/guest.cfg 2>&1 < /dev/null | while read -r line; do
        case $line in
        "guest: init at "*)
            read -r now _ < /proc/uptime
            echo "xen: boot=$begun,$now"
            ;;
        esac
        echo "$line"
    done
    echo "xen: round done"
    rounds=$((rounds - 1))
done
echo "xen: end"
poweroff -f
