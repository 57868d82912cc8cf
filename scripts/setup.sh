#!/bin/sh
# Installs the prerequisites that this machine lacks:
#
#   scripts/setup.sh PART...
#
#   make      make
#   cc        a C compiler, which Rust uses as its linker
#   wasm      a Rust toolchain for WebAssembly
#   postgres  the server programs of PostgreSQL 14 or newer, for private servers
#   lint      rustfmt and clippy
#   deny      cargo-deny, built into target/tools; two minutes on two cores
#
# It searches the same places as Sandmill (host/src/toolchain/rust.rs, host/src/db/embedded/programs.rs). Packages are installed only
# on Debian and its derivatives, as root or with a sudo that needs no password. Otherwise it prints the commands to run.
set -eu

say() {
  echo "setup: $*" >&2
}

fail() {
  say "$*"
  exit 1
}

# Installs Debian packages. Fails silently without apt-get or without the rights to use it. Updates the package lists only if the
# present ones do not suffice.
packages() {
  command -v apt-get >/dev/null || return 1
  as_root=
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || return 1
    as_root='sudo -n'
  fi
  say "installing $*"
  log=$(mktemp)
  apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends"
  if $apt install "$@" >"$log" 2>&1 || { $apt update && $apt install "$@"; } >>"$log" 2>&1; then
    rm -f "$log"
    return 0
  fi
  tail -n 5 "$log" >&2
  rm -f "$log"
  return 1
}

need_cargo() {
  command -v cargo >/dev/null || fail "Rust is not installed; install it from https://rustup.rs, then try again"
}

setup_make() {
  command -v make >/dev/null || packages make || fail "install make, then try again"
}

setup_cc() {
  need_cargo
  command -v cc >/dev/null || packages gcc libc6-dev ||
    fail "there is no C compiler; install one (Debian: apt-get install gcc libc6-dev; macOS: xcode-select --install)"
}

has_target() {
  libraries=$(rustc --print target-libdir --target "$1" 2>/dev/null) && [ -d "$libraries" ]
}

# Debian's Rust in /usr/bin, 1.85 or newer, with the standard library's sources and an LLVM linker for WebAssembly.
has_system_rust() {
  minor=$(unset LD_LIBRARY_PATH; /usr/bin/rustc --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\).*/\1/p')
  [ "${minor:-0}" -ge 85 ] && [ -x /usr/bin/cargo ] || return 1
  sysroot=$(unset LD_LIBRARY_PATH; /usr/bin/rustc --print sysroot)
  [ -e "$sysroot/lib/rustlib/src/rust/library/Cargo.lock" ] || return 1
  for linker in /usr/bin/wasm-ld*; do
    if [ -x "$linker" ]; then return 0; fi
  done
  return 1
}

setup_wasm() {
  need_cargo
  if has_target wasm32-unknown-unknown || has_target wasm32-wasip2 || has_system_rust; then return; fi
  if command -v rustup >/dev/null; then
    say "adding the target wasm32-unknown-unknown with rustup"
    RUSTUP_MAX_RETRIES=0 rustup target add wasm32-unknown-unknown >/dev/null 2>&1 || true
    if has_target wasm32-unknown-unknown; then return; fi
    say "rustup could not"
  fi
  packages rustc-web cargo-web rust-web-src lld-19 || true
  has_system_rust || fail "Rust cannot compile for WebAssembly here; run 'rustup target add wasm32-unknown-unknown' where there is
a network, or on Debian 'apt-get install --no-install-recommends rustc-web cargo-web rust-web-src lld-19'"
}

# Whether a directory contains the server programs of a supported version.
is_postgres() {
  [ -x "$1/postgres" ] && [ -x "$1/initdb" ] && [ -x "$1/pg_ctl" ] || return 1
  major=$("$1/postgres" --version 2>/dev/null | sed -n 's/^postgres (PostgreSQL) \([0-9]*\).*/\1/p')
  [ "${major:-0}" -ge 14 ]
}

has_postgres() {
  if [ -n "${SANDMILL_PG_BIN:-}" ]; then
    is_postgres "$SANDMILL_PG_BIN" || fail "SANDMILL_PG_BIN=$SANDMILL_PG_BIN has no postgres, initdb and pg_ctl of version 14 or newer"
    return
  fi
  if is_postgres "$(pg_config --bindir 2>/dev/null)"; then return; fi
  on_path=$(command -v postgres) && is_postgres "$(dirname "$(readlink -f "$on_path")")" && return
  for place in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
    /usr/local/pgsql/bin /Applications/Postgres.app/Contents/Versions/*/bin; do
    if is_postgres "$place"; then return; fi
  done
  return 1
}

setup_postgres() {
  if has_postgres; then return; fi
  packages postgresql || true
  has_postgres || fail "there are no server programs of PostgreSQL 14 or newer; install them (Debian: apt-get install postgresql; Fedora: dnf install
postgresql-server; macOS: brew install postgresql@17), or set SANDMILL_PG_BIN to the directory of postgres, initdb and pg_ctl"
}

setup_lint() {
  need_cargo
  if cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1; then return; fi
  command -v rustup >/dev/null || fail "install rustfmt and clippy for this Rust, then try again"
  say "adding rustfmt and clippy with rustup"
  rustup component add rustfmt clippy
}

# The version that `make lint` was last checked with.
deny_version=0.20.2

setup_deny() {
  need_cargo
  tools=${CARGO_TARGET_DIR:-target}/tools
  if cargo deny --version >/dev/null 2>&1 || [ -x "$tools/bin/cargo-deny" ]; then return; fi
  say "building cargo-deny $deny_version, which checks licences and advisories of the dependencies"
  cargo install --quiet --locked --debug --root "$tools" --version "$deny_version" cargo-deny ||
    fail "cargo-deny could not be built; install it (cargo install --locked cargo-deny), then try again"
}

for part in "$@"; do
  case $part in
    make | cc | wasm | postgres | lint | deny) "setup_$part" ;;
    *) fail "there is no part '$part'; choose among make, cc, wasm, postgres, lint and deny" ;;
  esac
done
