# Puts away what a lab leaves on the machine. Run as: sh -c THIS shoal-lab VERB LAB_DIR [HOST]
#   note HOST    remember which file systems only this host has (before it ends)
#   kill HOST    end every process of the host at once, remove its cgroups
#   detach HOST  detach the loop devices whose files belong to the host (after it ended)
#   lab          all of that for every host, then the network and the directory itself
#   watch        wait until standard input ends, which is when the owner died, then `lab`
# Everything is found by what the kernel says, never by a list that a crash could cut short.
# A shell script, because it must also run when the process that made the lab is dead.
set -u
verb=$1 lab=$2 host=${3:-}
name=${lab##*/}
netns=shoal-$name
if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then cgroup2=/sys/fs/cgroup; else cgroup2=/sys/fs/cgroup/unified; fi

status=0
complain() {
    echo "$*" >&2
    status=1
}

# wait_for CONDITION...: polls for up to ten seconds.
wait_for() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || return 1
        sleep 0.05
    done
}

losetup_list() {
    losetup --list --raw --noheadings --output NAME,BACK-MAJ:MIN,BACK-INO,BACK-FILE |
        awk '{ gsub(/\\x20/, "", $2); print "loop", $0 }'
}

# What tells the host's files apart later: the file systems that are mounted in the host and not on
# the machine (its root, /run, /tmp), and the loop devices of files that have no name any more. Of
# those only a place below the product's directory is left to go by, and that no process outside
# the host has them mounted: those are another lab's.
note() {
    find "$cgroup2/shoal-lab/$name/$1" -name cgroup.procs -exec cat {} + 2>/dev/null >"$lab/hosts/$1/pids"
    {
        while read -r pid; do cat "/proc/$pid/mountinfo" 2>/dev/null; done <"$lab/hosts/$1/pids" |
            awk 'NR == FNR { machine[$3]; next } $3 ~ /^0:/ && !($3 in machine) && !seen[$3]++ { print "dev", $3 }' \
                /proc/self/mountinfo -
        {
            ls /proc | grep -x '[0-9]*' | grep -vxFf "$lab/hosts/$1/pids" |
                while read -r pid; do cat "/proc/$pid/mountinfo" 2>/dev/null; done |
                awk '$3 ~ /^7:/ && !seen[$3]++ { sub("7:", "/dev/loop", $3); print "elsewhere", $3 }'
            losetup_list
        } | awk -v disk="$(stat -c %Hd:%Ld "$lab")" '
            $1 == "elsewhere" { elsewhere[$2]; next }
            $3 == disk && $5 ~ /^\/var\/lib\/shoal\/.*\(deleted\)$/ && !($2 in elsewhere) { print "ino", $4 }'
    } >"$lab/hosts/$1/noted"
}

empty() { grep -q '^populated 0' "$1/cgroup.events" 2>/dev/null || [ ! -d "$1" ]; }

remove_cgroups() {
    for tree in "$cgroup2" /sys/fs/cgroup/systemd; do
        [ ! -d "$tree/shoal-lab/$1" ] || find "$tree/shoal-lab/$1" -depth -type d -exec rmdir {} \;
    done 2>/dev/null
}

kill_host() {
    group=$cgroup2/shoal-lab/$name/$1
    if [ -d "$group" ]; then
        echo 1 >"$group/cgroup.kill"
        wait_for empty "$group" || complain "processes of $name/$1 survived being killed"
    fi
    remove_cgroups "$name/$1"
}

# A loop device shows its file's path as the host saw it, so files are told apart by device and inode.
loops_of() {
    {
        cat "$lab/hosts/$1/noted" 2>/dev/null
        find "$lab/hosts/$1" -xdev -type f -printf 'ino %i\n'
        losetup_list
    } | awk -v disk="$(stat -c %Hd:%Ld "$lab")" '
        $1 == "dev" { dev[$2] }
        $1 == "ino" { ino[$2] }
        $1 == "loop" && ($3 in dev || ($3 == disk || $3 ~ /^0:/) && $4 in ino) { print $2 }'
}

detached() {
    loops=$(loops_of "$1")
    for loop in $loops; do losetup --detach "$loop" 2>/dev/null; done
    [ -z "$loops" ]
}

detach() {
    wait_for detached "$1" || complain "loop devices of $name/$1 are still in use:" $loops
    rm -f "$lab/hosts/$1/noted"
}

# Whatever was started in the lab's network: a controller, a command line.
network_empty() {
    pids=$(ip netns pids "$netns" 2>/dev/null)
    [ -z "$pids" ] || kill -KILL $pids 2>/dev/null
    [ -z "$pids" ]
}

remove_network() {
    [ -e "/run/netns/$netns" ] || return 0
    wait_for network_empty || complain "processes in the network of $name survived:" $pids
    ip netns del "$netns" || complain "could not remove the network namespace $netns"
}

remove_lab() {
    [ -d "$lab/hosts" ] || return 0
    exec 9<"$lab"
    flock 9
    [ -d "$lab/hosts" ] || return 0
    for dir in "$lab"/hosts/*/; do
        [ -d "$dir" ] || continue
        dir=${dir%/}
        note "${dir##*/}"
        kill_host "${dir##*/}"
        detach "${dir##*/}"
    done
    remove_network
    remove_cgroups "$name"
    rmdir "$cgroup2/shoal-lab" /sys/fs/cgroup/systemd/shoal-lab 2>/dev/null
    rm -rf --one-file-system "$lab" || complain "could not remove $lab"
}

case $verb in
note) note "$host" ;;
kill) kill_host "$host" ;;
detach) detach "$host" ;;
lab) remove_lab ;;
watch)
    trap '' HUP INT TERM
    cat >/dev/null
    [ -e "$lab/keep" ] || remove_lab
    ;;
esac
exit "$status"
