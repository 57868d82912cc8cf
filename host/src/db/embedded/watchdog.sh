# Keeps a private PostgreSQL server on its owner's orders, and ends it with its owner.
#
# The owner holds the other end of stdin and writes one order a line; each is answered on stdout by its exit code. When that
# end closes, because the owner let go or because it was killed, the server is stopped and the run directory removed. A shell
# that waits for the end of its input needs no signal, no polling and no process id that could belong to somebody else by then.
#
# $1 run directory: socket and log, removed at the end   $2 data directory   $3 directory of the server's programs
# $4 options of the server   $5 "yes" when data must survive a crash of the machine
run=$1 data=$2 programs=$3 options=$4 durable=$5

# Whatever else the owner's starter left open would live on in the server.
exec 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-
# Nothing but the end of input ends this process: a terminal's Ctrl-C and a service manager's SIGTERM are for the owner.
trap '' HUP INT TERM PIPE
umask 077

logged() {
  "$programs/$@" </dev/null >>"$run/server.log" 2>&1
}

# Somebody else may run a server on a data directory that is kept; only one with our socket is ours to stop. The fifth line of
# this file is the socket directory.
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
