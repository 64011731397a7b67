#!/usr/bin/env bash
# The README's two commands on a fresh Debian 12: a debootstrap root, a clone of this commit, nothing
# else. Needs root and debootstrap. Usage: tests/clean-room.sh [ROOT_DIR] [--first-only]
#
# Into the new root go, as an administrator would put them: this machine's package source, its trust
# store and pip settings, name resolution, /proc and /dev/shm. Uncommitted changes do not take part.
set -euo pipefail
cd "$(dirname "$0")/.."

first_only=0
root=""
for arg in "$@"; do
  case "$arg" in
    --first-only) first_only=1 ;;
    *) root=$arg ;;
  esac
done
[ -n "$root" ] || root=$(mktemp -d "${TMPDIR:-/var/tmp}/graft-clean.XXXXXX")
mkdir -p "$root"

mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 'Created-By: Packages' |
  awk '$2 == "bookworm" { print $1; exit }')
[ -n "$mirror" ] || { echo "clean-room: no package source for bookworm on this machine" >&2; exit 1; }

cleanup() {
  umount "$root/dev/shm" "$root/dev/pts" "$root/proc" 2>/dev/null || true
  rm -rf --one-file-system "$root"
}
trap cleanup EXIT

echo "== debootstrap into $root"
debootstrap --variant=minbase --include=ca-certificates bookworm "$root" "$mirror" \
  >"$root.log" 2>&1 || { tail -n 20 "$root.log"; exit 1; }
rm -f "$root.log"

# The administrator's part.
mount -t proc proc "$root/proc"
mkdir -p "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
cp /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
cp /etc/hosts "$root/etc/hosts" 2>/dev/null || true
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
[ -d /usr/local/share/ca-certificates ] &&
  cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
[ -f /etc/pip.conf ] && cp /etc/pip.conf "$root/etc/pip.conf"
for conf in /etc/apt/apt.conf.d/*; do
  case "$(basename "$conf")" in
    *docker* | *autoremove*) ;;
    *) grep -qiE 'proxy|verify|check-' "$conf" && cp "$conf" "$root/etc/apt/apt.conf.d/" ;;
  esac
done || true

git clone -q . "$root/root/graftd"
inside() {
  env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    ${PIP_CERT:+PIP_CERT=$PIP_CERT} ${SSL_CERT_FILE:+SSL_CERT_FILE=$SSL_CERT_FILE} \
    ${HTTPS_PROXY:+HTTPS_PROXY=$HTTPS_PROXY} ${HTTP_PROXY:+HTTP_PROXY=$HTTP_PROXY} \
    chroot "$root" sh -c "cd /root/graftd && $1"
}

begin=$SECONDS
inside deploy/quickstart.sh
echo "== clean room: first command took $((SECONDS - begin)) s"
if [ $first_only -eq 0 ]; then
  begin=$SECONDS
  inside tests/run.sh
  echo "== clean room: second command took $((SECONDS - begin)) s"
fi
