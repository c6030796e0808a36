#!/bin/sh
# Stands in for `node ... openclaw.mjs gateway`: answers the probes, and nothing else.
state=/home/node/.openclaw
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
