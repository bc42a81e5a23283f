#!/usr/bin/env bash
# Builds every sample into samples/components/NAME.wasm and writes samples/components/MANIFEST.
#
#   samples/build.sh              with rustup's wasm32-wasip2 and wasm32-wasip1 where the machine has them, else with toolchain.sh's
#   samples/build.sh --no-rustup  with toolchain.sh's in any case
#
# Needs bash, coreutils and a cargo that comes with wasm-component-ld, as rustup's does; without rustup's target, apt.
set -euo pipefail
shopt -s globstar
export LC_ALL=C
cd "$(dirname "$0")/.."

target=wasm32-wasip2
command_target=wasm32-wasip1 # of fixtures/command, a core module
samples=(hello echo digits classify embed fanout proxy fixtures/probe fixtures/command) # folders under samples/; the last part names the component
components=samples/components

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

choose_compiler() {
    if [ "${1:-}" != --no-rustup ] && [ -d "$(rustc --print target-libdir --target $target)" ] &&
        [ -d "$(rustc --print target-libdir --target $command_target)" ]; then
        return
    fi
    echo "compiler: from Debian's packages, in samples/.toolchain"
    samples/toolchain.sh
    export RUSTC=$PWD/samples/.toolchain/bin/rustc
}

# wasm-component-ld takes wasm-ld from PATH, and an old one there fails with `undefined symbol: __heap_end`: the
# pair that the machine's own Rust brought goes first.
choose_linker() {
    local tools
    tools=$(rustc --print sysroot)/lib/rustlib/$(rustc --print host-tuple)/bin
    export PATH=$tools/gcc-ld:$tools:$PATH
    command -v wasm-component-ld >/dev/null || fail "no wasm-component-ld; install Rust with rustup"
    export CARGO_TARGET_WASM32_WASIP2_LINKER=wasm-component-ld CARGO_TARGET_WASM32_WASIP1_LINKER=rust-lld
}

build() {
    # Panic messages name source files: without this they would name this machine's folders. This variable outranks
    # every other source of flags and, unlike them, allows spaces in a path.
    local cargo_home=${CARGO_HOME:-$HOME/.cargo} separator=$'\x1f'
    export CARGO_ENCODED_RUSTFLAGS="--remap-path-prefix=$PWD=/shoal$separator--remap-path-prefix=$cargo_home=/cargo"
    cargo build --locked --release --target $target --manifest-path samples/Cargo.toml
    CARGO_TARGET_DIR=samples/target cargo build --locked --release --target $command_target \
        --manifest-path samples/fixtures/command/Cargo.toml
}

# The one definition of a component's inputs; tests compute the same.
inputs_sha256() {
    local files
    mapfile -t files < <(printf '%s\n' samples/Cargo.{toml,lock} guest-sdk/rust/Cargo.toml guest-sdk/rust/src/**/*.rs \
        wit/**/*.wit "samples/$1/Cargo.toml" "samples/$1"/src/**/*.rs | sort)
    sha256sum "${files[@]}" | sha256sum | cut -d ' ' -f 1
}

write_manifest() {
    cat <<'HEAD'
# Written by samples/build.sh. Lines: <sha256 of the inputs>  <sha256 of the component>  <component>
#
# The inputs of NAME.wasm, whose sources are in DIR (samples/NAME or samples/fixtures/NAME), are the files
#   samples/Cargo.toml  samples/Cargo.lock  guest-sdk/rust/Cargo.toml  DIR/Cargo.toml
#   and at any depth guest-sdk/rust/src/**.rs  wit/**.wit  DIR/src/**.rs
# Their hash is the sha256 of one text: for each file, sorted bytewise by its path from the repository's root, the line
#   <sha256 of its bytes, lower-case hex><two spaces><path>\n
HEAD
    local sample name
    for sample in "${samples[@]}"; do
        name=${sample##*/}.wasm
        echo "$(inputs_sha256 "$sample")  $(sha256sum "$components/$name" | cut -d ' ' -f 1)  $name"
    done
}

choose_compiler "$@"
choose_linker
build
mkdir -p $components
for sample in "${samples[@]}"; do
    name=${sample##*/}
    built=$target
    [ "$name" != command ] || built=$command_target
    cp "samples/target/$built/release/$name.wasm" "$components/$name.wasm"
done
write_manifest >$components/MANIFEST
stat --format '%8s  %n' $components/*.wasm
