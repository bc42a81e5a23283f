#!/usr/bin/env bash
# Fetches a Rust compiler for wasm32-wasip2 from Debian's packages into samples/.toolchain, for machines whose own
# Rust has no such target and cannot download one. Nothing is installed on the system; to undo it, remove the folder.
#
# Prints nothing on success. Afterwards .toolchain/bin/rustc is the compiler; cargo stays the machine's own.
# Needs Debian on either architecture that rustc is packaged for, bash, coreutils and apt.
set -euo pipefail
cd "$(dirname "$0")"

suite=trixie # the first Debian release whose Rust has wasm32-wasip2 (1.85.1)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
prefix=$PWD/.toolchain

fail() {
    echo "toolchain.sh: $*" >&2
    exit 1
}

# Where this machine's own apt gets Debian's packages from: a mirror or a proxy that works here.
debian_address() {
    local ID="" VERSION_CODENAME=""
    . /etc/os-release
    [ "$ID" = debian ] || fail "expected Debian, got ${ID:-an unknown system}; use: rustup target add wasm32-wasip2"
    apt-get indextargets --no-release-info --format '$(REPO_URI)' \
        "Created-By: Packages" "Release: $VERSION_CODENAME" "Component: main" | head -n 1
}

# apt-get on a package database of our own, empty at first, with the machine's own proxy and credentials.
private_apt() {
    apt-get --quiet=2 \
        -o Dir::State="$prefix/apt" -o Dir::State::status="$prefix/apt/status" -o Dir::Cache="$prefix/apt/cache" \
        -o Dir::Etc::sourcelist="$prefix/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
        -o APT::Sandbox::User= -o APT::Install-Recommends=false "$@"
}

# The wrapper runs the unpacked compiler with its own loader and libraries: the system's may be older.
write_wrapper() {
    local libraries=("$prefix"/sysroot/usr/lib/*-linux-gnu) loader=("$prefix"/sysroot/usr/lib/*-linux-gnu/ld-linux-*)
    [ -e "${loader[0]}" ] || fail "no loader among the packages"
    mkdir -p "$prefix/bin"
    cat >"$prefix/bin/rustc" <<WRAPPER
#!/bin/sh
exec "${loader[0]}" --library-path "${libraries[0]}" "$prefix/sysroot/usr/bin/rustc" --sysroot "$prefix/sysroot/usr" "\$@"
WRAPPER
    chmod +x "$prefix/bin/rustc"
}

[ ! -x "$prefix/bin/rustc" ] || exit 0

address=$(debian_address)
[ -n "$address" ] || fail "apt names no address for Debian's main component"
rm -rf "$prefix"
mkdir -p "$prefix/apt/lists/partial" "$prefix/apt/cache/archives/partial" "$prefix/sysroot"
: >"$prefix/apt/status"
echo "deb [signed-by=$keyring] $address $suite main" >"$prefix/apt/sources.list"

private_apt update
private_apt --yes --download-only install libstd-rust-dev libstd-rust-dev-wasm32
# rustc alone: what it depends on beyond the above is a C compiler, which the machine has.
(cd "$prefix/apt/cache/archives" && private_apt download rustc)
for package in "$prefix"/apt/cache/archives/*.deb; do
    dpkg -x "$package" "$prefix/sysroot"
done
rm -rf "$prefix/apt"
write_wrapper
"$prefix/bin/rustc" --version >/dev/null || fail "the unpacked compiler does not run"
