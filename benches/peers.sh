#!/usr/bin/env bash
# Installs what benches compare with into target/peers, from the registries. A bench whose peer is not there says so and goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
wasmtime=48.0.8 # that of Cargo.lock
if [ "$(target/peers/bin/wasmtime --version 2>/dev/null | cut -d ' ' -f 2)" != $wasmtime ]; then
    cargo install wasmtime-cli --version $wasmtime --locked --root target/peers
fi
