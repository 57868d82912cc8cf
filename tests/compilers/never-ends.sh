#!/bin/sh
# Stands in for a compiler that never ends.
exec /bin/sleep 3600
