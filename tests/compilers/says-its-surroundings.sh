#!/bin/sh
# Stands in for a compiler: says what it was given, and fails.
echo "arguments: $*" >&2
echo "folder: $PWD" >&2
env >&2
exit 2
