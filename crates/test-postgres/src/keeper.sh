# Keeps one PostgreSQL server running for as long as a process lives, and ends it with it.
# keeper.sh OWNER-PID OWNER-START BIN DATA AS DURABLE LISTEN PORT  (see src/lib.rs)
owner=$1 owner_start=$2 bin=$3 data=$4 as=$5 durable=$6 listen=$7 port=$8

server=
ended() {
  [ -z "$server" ] || { kill -QUIT "$server" 2>/dev/null; wait "$server" 2>/dev/null; }
  # An owner that lives has stopped it to start it again, or removes its files itself.
  lives || rm -rf "$(dirname "$data")"
  exit 0
}
trap ended TERM INT HUP

# Its number alone could be another process by now.
lives() {
  [ -r "/proc/$owner/stat" ] || return 1
  line=$(cat "/proc/$owner/stat" 2>/dev/null) || return 1
  rest=${line##*) }
  set -- $rest
  [ "$1" != Z ] && [ "${20}" = "$owner_start" ]
}

set -- "$bin/postgres" -D "$data" -k "$(dirname "$data")" -c listen_addresses="$listen" -c port="$port" \
  -c fsync="$durable" -c full_page_writes="$durable" -c autovacuum="$durable" \
  -c max_connections=400 -c shared_buffers=32MB -c max_wal_size=256MB -c lc_messages=C
if [ -n "$as" ]; then
  set -- setpriv --reuid "$as" --regid "$as" --clear-groups --pdeathsig QUIT "$@"
fi
"$@" >>"$(dirname "$data")/log" 2>&1 </dev/null &
server=$!
while lives && kill -0 "$server" 2>/dev/null; do sleep 0.3; done
ended
