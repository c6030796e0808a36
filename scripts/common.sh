# What the scripts share. To be sourced.
# shellcheck shell=bash

# The repository, wherever a script was called from.
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}

say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $1"
  [ -z "${2:-}" ] || say "  $2"
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# need COMMAND DEBIAN-PACKAGE...: the packages are installed when the command is missing.
need() {
  have "$1" && return
  install_for "$@"
  have "$1" || die "${*:2} brought no $1"
}

# install_for COMMAND DEBIAN-PACKAGE...: installs the packages where this machine is one that
# installs Debian packages, and root's; else it says what to do.
install_for() {
  local command=$1
  shift
  if [ "$(id -u)" = 0 ] && have apt-get; then
    say "installing $* (for $command)"
    if [ -z "${apt_updated:-}" ]; then
      apt-get update -qq >&2 || die "apt-get update failed" "mend it, or install $* by hand"
      apt_updated=1
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2 \
      || die "$command is missing and apt-get could not install $*"
  else
    die "$command is missing" "install it (Debian, Ubuntu: sudo apt-get install $*)"
  fi
}

# optional_parts: what belongs to a build of clawfarm and can be left out: sets `features`, and exports
# CLAWFARM_GUEST_AGENT. Without the two libraries that a virtiofsd is linked with it has none; without
# the agent of virtual machines commands in them go by SSH. `clawfarm doctor` tells which it has.
optional_parts() {
  local agent
  features=()
  if [ -e /usr/include/cap-ng.h ] && [ -e /usr/include/seccomp.h ]; then
    features=(--features clawfarm/virtiofsd)
  else
    say "without a virtiofsd: it wants libcap-ng-dev and libseccomp-dev (a package of virtiofsd does as well)"
  fi
  if agent=$("$repository/scripts/guest"); then
    export CLAWFARM_GUEST_AGENT=$agent
  else
    say "without the agent of virtual machines: commands in them will go by SSH"
  fi
}
