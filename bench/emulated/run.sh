#!/bin/sh
# Runs tests of this module on an emulated processor with AVX-512, AVX512-BF16 and AMX
# (Bochs, an instruction-accurate emulator; about a hundred times slower than hardware):
#
#   bench/emulated/run.sh DIR 'PACKAGE [ARGUMENT...]'...
#
# DIR is what bench/emulated/setup.sh made. Each further argument is a package directory
# (./internal/kernel) and the arguments of its test binary; NAME=VALUE words before it
# are its environment. A word @NAME is a Go main package, built and run as /NAME. The
# output goes to stdout; it ends with 1 if a line failed or the machine did not finish
# within LIMIT seconds (3600). CPU=model names another of Bochs' processors; what is in the
# directory FILES is in /files of the machine.
set -eu
[ $# -ge 2 ] || { sed -n '2,13p' "$0" | cut -c3- >&2; exit 64; }
dir=$(cd "$1" && pwd); shift
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
temp=$(mktemp -d)
emulator=
trap 'kill $emulator 2>/dev/null || true; rm -rf "$temp"' EXIT
trap 'exit 130' INT TERM

mkdir -p "$temp/root/dev" "$temp/disc/isolinux"
export CGO_ENABLED=0 GOOS=linux GOARCH=amd64
go build -o "$temp/root/init" ./bench/emulated/init
for line; do
	out=
	for word in $line; do
		case $word in
		./*) name=$(echo "${word#./}" | tr / .).test
			[ -e "$temp/root/$name" ] || go test -c -o "$temp/root/$name" "$word"
			word=/$name ;;
		@*) name=$(basename "$word")
			[ -e "$temp/root/$name" ] || go build -o "$temp/root/$name" "${word#@}"
			word=/$name ;;
		esac
		out="$out $word"
	done
	echo "$out" >>"$temp/root/lines"
done
if [ -n "${FILES:-}" ]; then cp -r "$FILES" "$temp/root/files"; fi
# Programs that can load the CUDA driver are linked dynamically.
for file in "$temp"/root/*; do
	ldd "$file" 2>/dev/null | grep -o '/[^ ]*' || true
done | sort -u | while read -r library; do
	mkdir -p "$temp/root$(dirname "$library")"
	cp "$library" "$temp/root$library"
done
mknod "$temp/root/dev/console" c 5 1
mknod "$temp/root/dev/null" c 1 3
mknod "$temp/root/dev/urandom" c 1 9
(cd "$temp/root" && find . | cpio -o -H newc --quiet | gzip -1) >"$temp/disc/isolinux/initrd"
cp "$dir/vmlinuz" "$temp/disc/isolinux/vmlinuz"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$temp/disc/isolinux/"
# Bochs 3.0 has faults in process-context identifiers and a few others, which the kernel
# can do without.
cat >"$temp/disc/isolinux/isolinux.cfg" <<END
DEFAULT linux
LABEL linux
  KERNEL vmlinuz
  INITRD initrd
  APPEND console=ttyS0 quiet mitigations=off nokaslr nowatchdog no5lvl nopcid nopku clearcpuid=erms,fsrm,invpcid,smap,smep,pks
END
genisoimage -quiet -o "$temp/disc.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat \
	-no-emul-boot -boot-load-size 4 -boot-info-table "$temp/disc"
cat >"$temp/bochsrc" <<END
config_interface: textconfig
display_library: nogui
memory: guest=${MEMORY:-1024}, host=${MEMORY:-1024}
romimage: file=$dir/bochs/bios/BIOS-bochs-latest
vgaromimage: file=$dir/bochs/bios/VGABIOS-lgpl-latest.bin
cpu: model=${CPU:-sapphire_rapids}, count=1, ips=100000000, reset_on_triple_fault=0, ignore_bad_msrs=1
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=$temp/disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$temp/serial
log: $temp/log
panic: action=fatal
error: action=ignore
info: action=ignore
clock: sync=none, time0=local
END
"$dir/bochs/bochs" -q -f "$temp/bochsrc" </dev/null >"$temp/screen" 2>&1 &
emulator=$!
: >"$temp/serial"
shown=0 waited=0
while sleep 5; do
	size=$(wc -c <"$temp/serial")
	if [ "$size" -gt "$shown" ]; then
		tail -c +$((shown + 1)) "$temp/serial" | head -c $((size - shown)) | tr -d '\r'
		shown=$size
	fi
	grep -q '^init: failed: [0-9]' "$temp/serial" && break
	kill -0 $emulator 2>/dev/null || { echo "$0: the emulator ended by itself" >&2; tail -3 "$temp/log" >&2; exit 1; }
	waited=$((waited + 5))
	[ $waited -lt "${LIMIT:-3600}" ] || { echo "$0: not finished after $waited s" >&2; exit 1; }
done
grep -q '^init: failed: 0' "$temp/serial"
