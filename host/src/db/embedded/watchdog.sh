# The watchdog of a private PostgreSQL server: carries out its owner's orders, and ends the server
# with its owner.
#
# The owner holds the other end of stdin and writes one order per line. Each is answered on stdout
# by an exit code. When stdin ends, because the owner closed it or was killed, the script stops the
# server and removes the run directory. A shell that waits for the end of its input needs no signal,
# no polling, and no process id that may belong to another process by then.
#
# $1 run directory: socket and log, removed at the end
# $2 data directory
# $3 directory of the server's programs
# $4 options of the server
# $5 "yes" if data must survive a crash of the machine
run=$1 data=$2 programs=$3 options=$4 durable=$5

# The server would inherit other open descriptors and keep them open.
exec 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-
# Only the end of input ends this process: Ctrl-C and a service manager's SIGTERM are for the owner.
trap '' HUP INT TERM PIPE
umask 077

logged() {
  "$programs/$@" </dev/null >>"$run/server.log" 2>&1
}

# Another owner may run a server on a given data directory. This script stops only the one with its
# own socket; the fifth line of postmaster.pid is the socket's directory.
ours() {
  [ "$(sed -n 5p "$data/postmaster.pid" 2>/dev/null)" = "$run" ]
}

stop() {
  if ours; then logged pg_ctl stop -D "$data" -m "$1" -w -t 60; fi
}

while read -r order; do
  case $order in
    create)
      set -- initdb -D "$data" -U sandmill --auth=trust --encoding=UTF8 --locale=C --no-instructions
      [ "$durable" = yes ] || set -- "$@" --no-sync
      logged "$@"
      ;;
    start) logged pg_ctl start -D "$data" -l "$run/server.log" -o "$options" -w -t 300 ;;
    fast | immediate) stop "$order" ;;
    *) false ;;
  esac
  echo $?
done

stop immediate
rm -rf "$run"
