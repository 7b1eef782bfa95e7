#!/bin/sh
# Prepares DIR for bench/emulated/run.sh on Debian 12 (as root, for the packages): the
# emulator Bochs 3.0 with AVX-512 and AMX, and a Linux kernel.
#
#   bench/emulated/setup.sh DIR [BOCHS_REPOSITORY]
#
# Bochs 3.0 lacks the switch by which Linux hands out AMX tiles on demand (Extended
# Feature Disable, Intel SDM volume 1, section 13.14); xfd.patch adds it.
set -eu
[ $# -ge 1 ] || { sed -n '2,9p' "$0" | cut -c3- >&2; exit 64; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
from=${2:-https://github.com/bochs-emu/Bochs}
apt-get install -y --no-install-recommends g++ make git patch cpio isolinux syslinux-common genisoimage >"$dir/apt.log"
cd "$dir"
package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/ *Depends: \(linux-image.*\)/\1/p' | head -1)
apt-get download "$package"
dpkg-deb -x "$package"_*.deb kernel
cp kernel/boot/vmlinuz-* vmlinuz
[ -d source ] || git clone --no-checkout --filter=blob:none "$from" source
git -C source checkout -q 858c99de120f6dded10d86effa06ab21a52e0ed2 -- bochs ':(exclude)bochs/bios/OVMF'
rm -rf bochs
mv source/bochs bochs
patch -p1 <"$here/xfd.patch"
cd bochs
./configure --enable-x86-64 --enable-cpu-level=6 --enable-avx --enable-evex --enable-amx --enable-repeat-speedups \
	--enable-fast-function-calls --enable-handlers-chaining --with-nogui --disable-docbook >../configure.log
make -j"$(nproc)" >../make.log 2>&1
echo "$dir is ready"
