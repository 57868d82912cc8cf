#!/bin/sh
# Checks the dependencies with cargo-deny: licences, duplicates and sources (deny.toml), and known
# vulnerabilities.
#
# Without cargo-deny it prints a message and succeeds, or fails if CI is set in the environment. It
# downloads the list of vulnerabilities. If that fails, it prints a message and checks the rest.
set -eu

if ! cargo deny --version >/dev/null 2>&1; then
  echo "The dependencies were not checked: cargo-deny is missing. 'make setup-deny' builds it in two minutes." >&2
  [ -z "${CI:-}" ] || exit 1
  exit 0
fi
echo "Checking dependencies"
check() {
  manifest=$1
  shift
  cargo deny --manifest-path "$manifest" --config deny.toml --workspace check --deny warnings "$@" licenses bans sources
}
check Cargo.toml
# The guests have fewer dependencies than deny.toml makes exceptions for.
for workspace in example-plugins tests/guests; do
  check "$workspace/Cargo.toml" --allow license-not-encountered --allow license-exception-not-encountered \
    --allow unmatched-skip --allow unnecessary-skip --allow unused-wrapper
done
if log=$(cargo deny fetch db 2>&1); then
  cargo deny --workspace check advisories
else
  echo "Known vulnerabilities were not checked: their list could not be downloaded ($(printf '%s' "$log" | tail -n 1))" >&2
fi
