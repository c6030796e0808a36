# Keeps one container engine running for as long as somebody uses it, and ends it then.
# keeper.sh FOLDER IDLE-SECONDS REMOVE KIND [PID]  (see src/lib.rs)
# With PID a Docker is put beside that one, into its network.
folder=$1 idle_for=$2 remove=$3 kind=$4 beside=${5:-}

daemon='' net='' holder='' bridge=''
ended() {
  # Podman's containers are nobody's children.
  [ "$kind" != podman ] || podman rm --all --force --time 0 >>"$folder/log" 2>&1 </dev/null
  [ -z "$daemon" ] || { kill "$daemon" 2>/dev/null; wait "$daemon" 2>/dev/null; }
  # The network may be needed by others for longer.
  [ -z "$bridge" ] || nsenter --net --target "$beside" ip link delete "$bridge" 2>/dev/null
  for pid in $net $holder; do kill "$pid" 2>/dev/null; done
  # A daemon that was killed leaves its containers running.
  for task in "$folder"/exec/containerd/daemon/io.containerd.runtime.v2.task/moby/*/init.pid; do
    [ -r "$task" ] && kill -KILL "$(cat "$task")" 2>/dev/null
  done
  [ "$remove" != yes ] || rm -rf "$folder"
  exit 0
}
trap ended TERM INT HUP

# The namespaces, which outlive a daemon that a test kills.
if [ -z "$beside" ]; then
  unshare --net --mount sleep infinity </dev/null >/dev/null 2>&1 8>&- 9>&- &
  holder=$!
  inside() { nsenter --net --mount --target "$holder" "$@"; }
  own=$(readlink /proc/self/ns/net)
  until [ "$(readlink "/proc/$holder/ns/net")" != "$own" ]; do sleep 0.05; done
  inside ip link set lo up
  # Out into the world from outside, without a word to this machine's own network.
  slirp4netns --configure --mtu=65520 --disable-host-loopback "$holder" tap0 \
    >"$folder/net.log" 2>&1 </dev/null 8>&- 9>&- &
  net=$!
  until inside ip link show tap0 >/dev/null 2>&1 || ! kill -0 "$net" 2>/dev/null; do sleep 0.05; done
  # A default network of the machine's, and addresses for others.
  network='--bip 10.213.0.1/24 --default-address-pool base=10.214.0.0/16,size=24'
else
  # A bridge of its own: a daemon that is told to have none removes docker0, which is the
  # other's (removeDefaultBridgeInterface in moby's daemon/daemon_unix.go). And two daemons would
  # take each other's rules for their own.
  bridge=beside$$
  nsenter --net --target "$beside" ip link add name "$bridge" type bridge
  nsenter --net --target "$beside" ip address add "10.216.$(($$ % 250)).1/24" dev "$bridge"
  nsenter --net --target "$beside" ip link set "$bridge" up
  network="--bridge $bridge --iptables=false --ip6tables=false --default-address-pool base=10.215.0.0/16,size=24"
fi
podman() {
  inside env CONTAINERS_CONF="$folder/containers.conf" timeout 60 \
    podman --root "$folder/data" --runroot "$folder/run" "$@"
}
if [ "$kind" = podman ]; then
  # All that an earlier one left: its images are soon made anew.
  rm -rf "$folder/data" "$folder/run" "$folder/tmp" "$folder/networks"
  # Without systemd; and its own limits on open files are above what some machines allow.
  cat >"$folder/containers.conf" <<END
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "$folder/tmp"
[network]
network_config_dir = "$folder/networks"
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=8192:8192"]
END
fi
# What an earlier daemon left: its containers would be started again.
rm -rf "$folder/data/containers" "$folder/data/network" "$folder/exec" "$folder/docker.pid"
begin() {
  if [ "$kind" = podman ]; then
    nsenter --net --mount --target "$holder" env CONTAINERS_CONF="$folder/containers.conf" \
      podman --root "$folder/data" --runroot "$folder/run" --log-level warn \
      system service --time 0 "unix://$folder/podman.sock" >>"$folder/log" 2>&1 </dev/null 8>&- 9>&- &
    daemon=$!
    echo "$daemon" >"$folder/daemon"
    return
  fi
  # shellcheck disable=SC2086
  nsenter --net --mount --target "${beside:-$holder}" dockerd --host "unix://$folder/docker.sock" --data-root "$folder/data" --exec-root "$folder/exec" \
    --pidfile "$folder/docker.pid" $network \
    --dns 10.0.2.3 --log-level warn >>"$folder/log" 2>&1 </dev/null 8>&- 9>&- &
  daemon=$!
  echo "$daemon" >"$folder/daemon"
}
begin

idle=0
while :; do
  sleep 1
  if ! kill -0 "$daemon" 2>/dev/null; then
    # One that a test has killed is held back until the test wants it again.
    if [ ! -e "$folder/held" ]; then
      [ -e "$folder/revived" ] || break
      # Its containerd dies with it, a little later: the next would take that for its own.
      old=$(cat "$folder/exec/containerd/containerd.pid" 2>/dev/null)
      [ -z "$old" ] || ! kill -0 "$old" 2>/dev/null || continue
      rm -f "$folder/revived"
      begin
    fi
  fi
  # Users hold it shared, for as long as their process lives.
  if flock -n -x "$folder/users" true 8>&- 9>&-; then idle=$((idle + 1)); else idle=0; fi
  [ "$idle" -ge "$idle_for" ] || continue
  # Nobody begins to use it from here on; who has begun meanwhile is seen.
  exec 9>"$folder.lock"
  flock 9
  if flock -n -x "$folder/users" true 9>&-; then ended; fi
  exec 9>&-
  idle=0
done
ended
