#!/bin/sh
# Stands in for a compiler that waits for something for ever.
exec /bin/sleep 3600
