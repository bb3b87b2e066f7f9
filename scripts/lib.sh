# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# Shell functions shared by scripts/quickstart, scripts/check and .ci/run. Source it from bash with `set -euo pipefail`:
#     say TEXT               a step, for people
#     die TEXT               one line on stderr, exit 1
#     install_packages P...  what scripts/packages.txt lists for the purposes P and what is missing; quick when all is
#                            there
# It changes nothing when it is sourced, except that it defines KELPIE_SCRIPTS.

KELPIE_SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() {
    printf '==> %s\n' "$*"
}

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Prints the packages of the given purposes that are not installed, one a line.
packages_missing() {
    local purpose wanted
    wanted=$(for purpose in "$@"; do
        awk -v purpose="$purpose" '$1 == purpose { print $2 }' "$KELPIE_SCRIPTS/packages.txt"
    done | sort -u)
    [ -n "$wanted" ] || die "packages.txt has no purpose among: $*"
    # dpkg-query fails for names it has never heard of, and says nothing about them: hence the comparison. A package
    # that only provides the name (pkgconf for pkg-config) counts as well.
    # shellcheck disable=SC2016 # ${...} belongs to dpkg-query
    comm -23 <(printf '%s\n' "$wanted") \
        <(dpkg-query -W -f '${db:Status-Status} ${Package} ${Provides}\n' |
            awk '$1 == "installed" { gsub(/\([^)]*\)|,/, " "); for (i = 2; i <= NF; i++) print $i }' | sort -u)
}

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# Reads apt's status lines (pmstatus:PACKAGE:PERCENT:TEXT, dlstatus likewise) and shows them as progress: one line that
# is written over on a terminal, one line for every tenth part elsewhere.
packages_progress() {
    local kind percent text tenth last=-1
    while IFS=: read -r kind _ percent text; do
        case $kind in dlstatus | pmstatus) ;; *) continue ;; esac
        tenth=$((${percent%%.*} / 10))
        if [ -t 1 ]; then
            printf '\r    %3d %%  %-68.68s' "${percent%%.*}" "$text"
        elif [ "$kind$tenth" != "$last" ]; then
            printf '    %3d %%  %s\n' "${percent%%.*}" "$text"
        fi
        last=$kind$tenth
    done
    if [ -t 1 ]; then
        printf '\r%80s\r' ''
    fi
}

# apt-get with everything it says in the file $1, and its progress shown. The status is apt's. Descriptor 3 is made by a
# shell on root's side, since sudo closes everything above 2; the log is opened on ours, since root may not append to
# another user's file in /tmp (fs.protected_regular).
packages_apt() {
    local log=$1
    shift
    # shellcheck disable=SC2016 # for the inner shell
    as_root sh -c 'exec 3>&1 1>&2; exec "$@"' sh env DEBIAN_FRONTEND=noninteractive LC_ALL=C \
        apt-get -y -o DPkg::Lock::Timeout=300 -o APT::Status-Fd=3 --no-install-recommends "$@" \
        2>>"$log" </dev/null | packages_progress
}

install_packages() {
    local missing log
    command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
        die "this is not Debian: install what scripts/packages.txt lists, then build with meson"
    missing=$(packages_missing "$@")
    [ -n "$missing" ] || return 0
    missing=${missing//$'\n'/ }
    if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
        die "not root and no sudo; have root run: apt-get install --no-install-recommends $missing"
    fi
    say "installing: $missing"
    log=$(mktemp -t kelpie-apt.XXXXXX)
    # Word splitting is wanted. The lists may be absent (a fresh container) or stale (a package was replaced since):
    # both end in a failed first try.
    # shellcheck disable=SC2086
    if ! packages_apt "$log" install $missing; then
        say "refreshing the package lists"
        packages_apt "$log" update || { tail -n 20 "$log" >&2; die "apt-get update failed; all of it: $log"; }
        packages_apt "$log" install $missing ||
            { tail -n 20 "$log" >&2; die "apt-get install failed; all of it: $log"; }
    fi
    rm -f "$log"
    missing=$(packages_missing "$@")
    [ -z "$missing" ] || die "still missing after the installation: ${missing//$'\n'/ }"
}
