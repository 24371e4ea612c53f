#!/bin/sh
# Builds the images of this example out of Debian packages. README.md says how it is used.
#
#   build.sh tree DIR                        the slow part: a Debian with all packages, made once
#   build.sh image DIR NAME VERSION FILE     an image from it; NAME is platform or notes
#
# The same tree, files and version give the same bytes. Needs root, mmdebstrap and squashfs-tools.
set -eu

here=$(cd "$(dirname "$0")" && pwd)

# Users whose files are in data volumes keep their numbers, whatever a later Debian would give them.
users='
mysql:901:/var/lib/mysql
postgres:902:/var/lib/postgresql
_graphite:903:/var/lib/graphite
opensmtpd:904:/var/lib/opensmtpd/empty
opensmtpq:905:/var/lib/opensmtpd/empty
mailbox:906:/var/mail
notes:907:/
'

make_users() {
    for user in $users; do
        name=${user%%:*} home=${user##*:}
        id=${user#*:} id=${id%%:*}
        echo "$name:x:$id:$id::$home:/usr/sbin/nologin" >>"$1/etc/passwd"
        echo "$name:x:$id:" >>"$1/etc/group"
    done
}

# PostgreSQL does without its compiler of queries, which would be a third of the image.
make_tree() {
    mmdebstrap --quiet --mode=root --format=directory --variant=minbase \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
        --include=usr-is-merged,systemd,systemd-sysv \
        --include=mariadb-server-core,mariadb-client-core,postgresql-15 \
        --include=opensmtpd,graphite-carbon,python3-pymysql,python3-psycopg2 \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/info/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/i18n/*' \
        --dpkgopt='path-exclude=/usr/lib/*/libLLVM*' \
        --dpkgopt='path-exclude=/usr/lib/*/libz3*' \
        --dpkgopt='path-exclude=/usr/lib/postgresql/*/lib/llvmjit*' \
        --dpkgopt='path-exclude=/usr/lib/postgresql/*/lib/bitcode/*' \
        --essential-hook="sh '$here/build.sh' users \"\$1\"" \
        bookworm "$1"
    clean_tree "$1"
}

# Removes what is of this build alone, what Debian would start by itself, and the empty database
# that its package made.
clean_tree() {
    for file in etc/machine-id etc/hostname etc/resolv.conf; do : >"$1/$file"; done
    rm -rf "$1"/var/log/* "$1"/var/cache/* "$1"/var/lib/postgresql/* "$1"/etc/postgresql/*
    chroot "$1" systemctl --quiet disable postgresql.service opensmtpd.service carbon-cache.service
    chroot "$1" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer
}

make_image() {
    tree=$1 name=$2 version=$3 file=$4
    work=$(mktemp -d "$tree.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    cp -a --reflink=auto "$tree/." "$work"
    cp -rT --no-preserve=mode,ownership "$here/$name" "$work"
    chmod 0755 "$work/usr/lib/$name"/*
    echo "$version" >"$work/usr/lib/$name/version"
    printf 'IMAGE_ID=%s\nIMAGE_VERSION=%s\n' "$name" "$version" >>"$work/etc/os-release"
    (cd "$here/$name/usr/lib/systemd/system" && chroot "$work" systemctl --quiet enable *.service)
    mksquashfs "$work" "$file" -noappend -quiet -no-progress -no-exports -no-xattrs \
        -comp zstd -Xcompression-level 6 -mkfs-time 946684800 -all-time 946684800
}

case ${1-} in
tree) make_tree "$2" ;;
users) make_users "$2" ;; # by tree, once the root is there
image) make_image "$2" "$3" "$4" "$5" ;;
*) sed -n 's/^# \{0,1\}//; 2,7p' "$0" >&2; exit 2 ;;
esac
