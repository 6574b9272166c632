# What a guest does with its disks, as part of its init (guest-init.sh), which has read storage=STEP,… from the kernel's command line:
#   work     fio on each of storage.fio=FORMAT:DISK,…, and a file system on each of storage.ext4=FORMAT:DISK,…
#   bench    measures storage.bench=DISK with fio
#   verify   holds the disks storage.durable=DISK,… to what /etc/history says was durable on them
#   write    writes to those until the guest is ended; storage.run=N is the run's number in the history
#   reset    the same, but the guest resets itself after storage.after=MILLISECONDS
# Lines "durable …" come from the writers; a program counts on them.

storage_option() {
    for word in $(cat /proc/cmdline); do
        case $word in storage."$1"=*) echo "${word#*=}" | tr , ' ' ;; esac
    done
}

# its file systems and programs are those of a Debian
prepared() {
    mkdir -p /dev/shm
    mount -t tmpfs tmpfs /dev/shm
    for disk in $*; do
        disk=${disk#*:}
        wait_for -b "/dev/${disk#/dev/}"
    done
}

fio_on() {
    format=$1 disk=$2
    say "fio_queues_$format=$(ls "/sys/block/$disk/mq" | wc -l)"
    start=$(now)
    DISK=/dev/$disk /usr/bin/fio /bin/storage.fio > /tmp/fio 2>&1
    code=$?
    grep -E 'bw=|err=' /tmp/fio | while read -r line; do say "fio $format: $line"; done
    [ $code = 0 ] || fail "fio on $format ($disk) ended with $code: $(grep -E 'verif|error' /tmp/fio | head -n 3)"
    say "fio_s_$format=$((($(now) - start) / 100))"
}

ext4_on() {
    format=$1 disk=$2
    /usr/sbin/mkfs.ext4 -q -F -m 0 "/dev/$disk" > /tmp/mkfs 2>&1 || fail "mkfs.ext4 on $format ($disk): $(cat /tmp/mkfs)"
    mount -t ext4 "/dev/$disk" /mnt || fail "cannot mount $format ($disk)"
    data /mnt/data 6 || fail "cannot write to $format"
    (cd /mnt && sha256sum data > data.sha256)
    # Many small files, each durable before the next; every third goes.
    count=0
    while [ $count -lt 30 ]; do
        count=$((count + 1))
        dd if=/mnt/data of=/mnt/small-$count bs=4k skip=$((count * 25)) count=$count conv=fsync status=none || fail "cannot write to $format"
        [ $((count % 3)) != 0 ] || rm /mnt/small-$count
    done
    # Where the disk takes no discards, this is refused.
    trimmed=$(fstrim -v /mnt 2>&1) || trimmed="no discards: $trimmed"
    say "ext4 $format: $trimmed"
    (cd /mnt && sha256sum small-* > small.sha256)
    umount /mnt || fail "cannot unmount $format"
    /usr/sbin/e2fsck -f -n "/dev/$disk" > /tmp/e2fsck 2>&1 || fail "e2fsck on $format ($disk): $(cat /tmp/e2fsck)"
    mount -t ext4 "/dev/$disk" /mnt || fail "cannot mount $format again"
    (cd /mnt && sha256sum -c -s data.sha256 && sha256sum -c -s small.sha256) || fail "the files on $format are not those written"
    read -r sum _ < /mnt/data.sha256
    umount /mnt || fail "cannot unmount $format at the end"
    say "ext4_sha256_$format=$sum"
}

work() {
    on_disks=$(storage_option fio) on_systems=$(storage_option ext4)
    prepared $on_disks $on_systems
    for disk in $on_disks; do fio_on "${disk%:*}" "${disk#*:}"; done
    for disk in $on_systems; do ext4_on "${disk%:*}" "${disk#*:}"; done
}

# bench_on DISK NAME OPTION...: seven seconds of fio; says NAME=KIBIBYTES_PER_S OPERATIONS_PER_S of what it read
bench_on() {
    disk=$1 name=$2
    shift 2
    say "fio: $name"
    /usr/bin/fio --minimal --terse-version=3 --name="$name" --filename="/dev/$disk" --direct=1 --ioengine=libaio --time_based --ramp_time=1 \
        --runtime=6 "$@" > /tmp/fio 2>&1 || fail "fio on $disk: $(tail -n 3 /tmp/fio)"
    say "$name=$(grep '^3;' /tmp/fio | cut -d ';' -f 7,8 | tr ';' ' ')"
}

bench() {
    disk=$(storage_option bench)
    prepared "$disk"
    bench_on "$disk" randread_4k_qd32 --rw=randread --bs=4k --iodepth=32
    bench_on "$disk" read_1m --rw=read --bs=1m --iodepth=4
}

verify() {
    /bin/durable verify /etc/history $durable > /tmp/durable 2>&1
    code=$?
    while read -r line; do say "$line"; done < /tmp/durable
    [ $code = 0 ] || fail "$(tail -n 1 /tmp/durable)"
    say "verified=all"
}

durable=
for disk in $(storage_option durable); do durable="$durable /dev/$disk"; done
[ -z "$durable" ] || prepared $durable
for step in $(echo "$storage" | tr , ' '); do
    case $step in
    work) work ;;
    bench) bench ;;
    verify) verify ;;
    write)
        say "writing"
        /bin/durable write "$(storage_option run)" $durable
        fail "the writers ended with $?"
        ;;
    reset)
        say "writing"
        /bin/durable write "$(storage_option run)" $durable &
        usleep $(($(storage_option after) * 1000))
        echo b > /proc/sysrq-trigger
        sleep 60
        fail "sysrq did not reset it"
        ;;
    *) fail "no such step: $step" ;;
    esac
done
