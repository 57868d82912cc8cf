#!/bin/sh
# Stands in for a compiler: reports its arguments, folder and environment, and fails.
echo "arguments: $*" >&2
echo "folder: $PWD" >&2
env >&2
exit 2
