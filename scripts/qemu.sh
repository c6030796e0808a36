# QEMU for the tests. To be sourced after common.sh.
# shellcheck shell=bash

# need_qemu: QEMU and qemu-img, of a version that can all that clawfarm asks of them: 8.2 or newer.
# Debian 12's own has 7.2, so there both come from bookworm-backports, of the archive that this
# machine's own sources name. No list of sources is changed.
need_qemu() {
  if have qemu-img && have qemu-system-x86_64 && newer_than_8_1 "$(qemu-system-x86_64 --version)"; then
    return
  fi
  local codename archive sources
  # shellcheck disable=SC1091
  codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  if [ "$codename" = bookworm ] && [ "$(id -u)" = 0 ] && have apt-get; then
    if [ -z "${apt_updated:-}" ]; then
      apt-get update -qq >&2 || die "apt-get update failed" "mend it, or install qemu-system-x86 by hand"
      apt_updated=1
    fi
    # The first that has bookworm itself, in the order of the sources.
    archive=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Identifier: Packages' \
      | awk '$2 == "bookworm" && !found { print $1; found = 1 }')
    [ -n "$archive" ] || die "apt has no source of Debian 12" "install qemu-system-x86 8.2 or newer by hand"
    sources=$(mktemp)
    # Beside what /etc/apt/sources.list has, in whose place it is read.
    cat /etc/apt/sources.list >"$sources" 2>/dev/null || true
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s bookworm-backports main\n' \
      "$archive" >>"$sources"
    say "installing qemu-system-x86 and qemu-utils from bookworm-backports"
    { apt-get update -qq -o Dir::Etc::SourceList="$sources" \
      && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o Dir::Etc::SourceList="$sources" -t bookworm-backports qemu-system-x86 qemu-utils; } >&2 \
      || { rm -f "$sources"; die "QEMU 8.2 or newer is missing and apt-get could not install it"; }
    rm -f "$sources"
  else
    need qemu-system-x86_64 qemu-system-x86
    need qemu-img qemu-utils
  fi
  newer_than_8_1 "$(qemu-system-x86_64 --version)" \
    || die "QEMU is older than 8.2: $(qemu-system-x86_64 --version | head -n 1)" "install a newer one"
}

# newer_than_8_1 TEXT: whether `--version` told 8.2 or more.
newer_than_8_1() {
  [[ $1 =~ version\ ([0-9]+)\.([0-9]+) ]] || return 1
  [ "${BASH_REMATCH[1]}" -gt 8 ] || { [ "${BASH_REMATCH[1]}" = 8 ] && [ "${BASH_REMATCH[2]}" -ge 2 ]; }
}

# keep_old_qemu: Debian 12's own QEMU in the cache, unpacked beside the system's: what is saved
# otherwise there is tested with it.
keep_old_qemu() {
  local folder=$cache/clawfarm-test/qemu-7.2 release
  # shellcheck disable=SC1091
  release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  if [ -d "$folder" ] || [ "$release" != bookworm ]; then
    return
  fi
  mkdir -p "$cache/clawfarm-test"
  exec 8>"$cache/clawfarm-test/.qemu-7.2.lock"
  flock 8
  if [ ! -d "$folder" ]; then
    say "unpacking Debian 12's own QEMU, once for this machine"
    rm -rf "$folder.part"
    mkdir -p "$folder.part/packages"
    # The second has the emulator, as a module. Downloaded as ourselves: apt's own user may not
    # get there.
    (
      cd "$folder.part/packages"
      apt-get -qq -o APT::Sandbox::User="$(id -un)" download \
        qemu-system-x86/bookworm qemu-system-common/bookworm qemu-system-data/bookworm seabios/bookworm >&2 8>&-
    ) || die "Debian 12's QEMU could not be downloaded" "mend it (apt-get download qemu-system-x86/bookworm)"
    local package
    for package in "$folder.part/packages"/*.deb; do
      dpkg -x "$package" "$folder.part" || die "$package could not be unpacked"
    done
    rm -rf "$folder.part/packages"
    mv -T "$folder.part" "$folder"
  fi
  exec 8>&-
}
