#!/bin/busybox sh
# A guest's init.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
read -r up _ < /proc/uptime
echo "guest: init at $up s"
poweroff -f
