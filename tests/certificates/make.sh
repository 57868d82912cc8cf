#!/bin/sh
# Makes the certificates beside it, with openssl: an authority of the tests' own, what it has
# signed, one that signs itself, and one in the old form v1. All but `expired` are valid for a
# hundred years.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
touch "$work/index"
cat >"$work/ca.cnf" <<END
[ca]
default_ca = tests
[tests]
database = $work/index
new_certs_dir = $work
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
copy_extensions = copy
[any]
commonName = supplied
END

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

# NAME SUBJECT EXTENSION UNTIL: a certificate that the authority signs.
signed() {
  key "$1.key"
  openssl req -new -key "$1.key" -subj "/CN=$2" -addext "$3" -out "$work/request"
  openssl ca -batch -notext -config "$work/ca.cnf" -cert authority.crt -keyfile "$work/authority.key" \
    -in "$work/request" -startdate 20200101000000Z -enddate "$4" -out "$1.crt"
}

key "$work/authority.key"
openssl req -x509 -new -key "$work/authority.key" -subj "/CN=An authority for tests" -days 36500 \
  -addext "keyUsage=critical,keyCertSign" -out authority.crt
for_localhost="subjectAltName=DNS:localhost,IP:127.0.0.1"
signed server localhost "$for_localhost" 21200101000000Z
signed other other.example "subjectAltName=DNS:other.example" 21200101000000Z
signed expired localhost "$for_localhost" 20210101000000Z
signed client sandmill "extendedKeyUsage=clientAuth" 21200101000000Z
key alone.key
openssl req -x509 -new -key alone.key -subj "/CN=localhost" -days 36500 -addext "$for_localhost" -out alone.crt
# Without extensions OpenSSL before 3.2 makes version 1.
key v1.key
openssl req -new -key v1.key -subj "/CN=localhost" -out "$work/request"
openssl x509 -req -in "$work/request" -signkey v1.key -days 36500 -out v1.crt
