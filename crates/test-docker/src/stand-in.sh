#!/bin/sh
# Stands in for `node ... openclaw.mjs gateway`: answers the probes, and nothing else.
state=/home/node/.openclaw
# It runs no script.
[ "$1" = -e ] && exit 1
# What Node would take from the file that it is told of, as far as a test asks for it.
for argument; do
  case $argument in --env-file=*)
    while read -r line; do
      case $line in TEST_KEY=*) echo "$line" >>$state/given ;; esac
    done <"${argument#--env-file=}" ;;
  esac
done
echo run >>$state/runs
cat /app/version >>$state/versions
if [ -e /app/broken ]; then
  echo "this version has lost its footing" >&2
  exit 3
fi
# Takes more memory than it may, once, when a test has asked for it: tail keeps all of a line.
if [ -e $state/workspace/eat ]; then
  rm $state/workspace/eat
  echo hungry
  exec tail /dev/zero
fi
mkdir -p /tmp/www
printf '{"ok":true,"status":"started"}' >/tmp/www/startupz
printf '{"ok":true,"status":"live"}' >/tmp/www/healthz
echo "the gateway listens"
exec httpd -f -p 18789 -h /tmp/www
