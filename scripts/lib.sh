# shellcheck shell=bash
# What scripts/test, scripts/demo and the like share. To be sourced.
#
# The way it works: the script that the user starts ("outside") installs missing packages, copies
# the source tree into a new folder under /tmp, and runs a second script there ("inside") as an
# unprivileged user, because PostgreSQL refuses to run as root. Everything is built, installed and
# run in that folder: the module goes into a private copy of the PostgreSQL installation, so that
# the machine's own is not touched. On the way out, however it ends, servers started there are
# stopped by their recorded pids and the folder is removed.

set -euo pipefail

# Each argument on a line of its own.
say() { printf '%s\n' "$@"; }
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# What a script is for stands at its head.
case ${1:-} in
    -h | --help)
        sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
esac

# with_progress WHAT LOG COMMAND...: runs the command with its output in the file LOG, and says what is being
# done: on a terminal in one line that counts the seconds, elsewhere with a line at the beginning and one
# each minute. Returns the command's exit status.
with_progress() {
    local what=$1 log=$2 pid status=0 began=$SECONDS said=0 width
    shift 2
    [[ -t 1 ]] || say "$what"
    "$@" </dev/null >"$log" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        if [[ -t 1 ]]; then
            width=$(tput cols 2>/dev/null || say 80)
            printf '\r%.*s' "$((width - 1))" "$(printf '%4d s  %s' "$((SECONDS - began))" "$what")"
        elif [[ $((SECONDS - began - said)) -ge 60 ]]; then
            said=$((SECONDS - began))
            say "$what: $said s"
        fi
        sleep 0.2
    done
    wait "$pid" || status=$?
    [[ ! -t 1 ]] || printf '\r\033[K'
    return "$status"
}

# ---------------------------------------------------------------------------------------------
# Outside: packages

# Debian's PostgreSQL for this release, unless one is installed or PG_CONFIG names another.
debian_pg_major() {
    local installed
    installed=$(find /usr/lib/postgresql -mindepth 3 -maxdepth 3 -path '*/bin/postgres' 2>/dev/null |
        cut -d/ -f5 | sort -n | tail -n 1)
    if [[ -n $installed ]]; then
        say "$installed"
        return
    fi
    case $(. /etc/os-release && say "${ID:-}${VERSION_ID:-}") in
        debian12) say 15 ;;
        debian13) say 17 ;;
        *)
            die "no PostgreSQL is installed and this is neither Debian 12 nor 13: install your release's" \
                "postgresql-N and postgresql-server-dev-N, that is all; or set PG_CONFIG to the pg_config of another"
            ;;
    esac
}

# The packages for building and running the module. Sets PG_CONFIG.
need_postgres() {
    if [[ -n ${PG_CONFIG:-} ]]; then
        [[ -x $(command -v "$PG_CONFIG") ]] || die "PG_CONFIG=$PG_CONFIG is not a program"
        need_packages g++ make libfmt-dev
        return
    fi
    local major
    major=$(debian_pg_major)
    need_packages "postgresql-$major" "postgresql-server-dev-$major" g++ make libfmt-dev
    PG_CONFIG=/usr/lib/postgresql/$major/bin/pg_config
}

missing_packages() {
    local package
    for package in $(printf '%s\n' "$@" | sort -u); do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
            printf '%s ' "$package"
    done
}

as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif [[ -t 0 ]]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

install_packages() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

installed_packages= # what need_packages has installed, for the closing words

# Installs the packages that are missing, and nothing where none is.
need_packages() {
    local missing log override=/etc/postgresql-common/createcluster.d/lockguard-scripts.conf policy=/usr/sbin/policy-rc.d
    command -v dpkg-query >/dev/null || die "this script installs Debian packages; needed: $*"
    missing=$(missing_packages "$@")
    [[ -n $missing ]] || return 0
    missing=${missing% }
    if [[ $(id -u) -ne 0 ]] && { ! command -v sudo >/dev/null || { [[ ! -t 0 ]] && ! sudo -n true 2>/dev/null; }; }; then
        die "missing packages, and no right to install them: $missing"
    fi
    log=$(mktemp /tmp/lockguard-apt.XXXXXX)
    # A freshly installed server package makes and starts a cluster of its own. Nobody asked for
    # one: switch that off while we install. A machine with PostgreSQL is left as it is.
    if ! dpkg-query -W postgresql-common >/dev/null 2>&1; then
        as_root mkdir -p "${override%/*}"
        say "create_main_cluster = false" | as_root tee "$override" >/dev/null
    else
        override=
    fi
    # Nor for the services of others. A machine that has a policy of its own keeps it.
    if [[ ! -e $policy ]]; then
        say '#!/bin/sh' 'exit 101' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    else
        policy=
    fi
    local status=0
    # sudo may ask for the password here, and not behind a line of progress.
    [[ $(id -u) -eq 0 || ! -t 0 ]] || sudo -v
    # shellcheck disable=SC2086 # the list of packages is meant to be split
    with_progress "installing $missing" "$log" install_packages $missing || status=$?
    [[ -z $override ]] || as_root rm -f "$override"
    [[ -z $policy ]] || as_root rm -f "$policy"
    if [[ $status -ne 0 ]]; then
        tail -n 5 "$log" >&2
        rm -f "$log"
        die "missing packages, and apt-get could not install them: $missing"
    fi
    rm -f "$log"
    installed_packages+="${installed_packages:+ }$missing"
}

# keep_services_off SERVICE...: those whose package need_packages has just installed do not run, and do not begin
# to with the next start of the machine. What was there before is left as it is.
keep_services_off() {
    local service
    for service in "$@"; do
        [[ " $installed_packages " == *" $service "* ]] || continue
        if [[ -d /run/systemd/system ]]; then
            as_root systemctl disable -q --now "$service"
        elif command -v update-rc.d >/dev/null; then
            as_root update-rc.d "$service" disable >/dev/null
        fi
        ! pgrep -f "^/usr/bin/$service( |$)" >/dev/null || die "the service $service runs, although nobody has started it"
    done
}

# ---------------------------------------------------------------------------------------------
# Outside: the private folder

private_dir=
inside_user=() # the command before whatever runs inside; empty where the caller is no root
inside_group=

# Stops every server whose data directory is in the private folder.
stop_private_servers() {
    local pid_file pid waited
    while IFS= read -r pid_file; do
        pid=$(head -n 1 "$pid_file" 2>/dev/null) || continue
        # The pid may have been reused: a postmaster's current directory is its data directory.
        [[ $pid =~ ^[0-9]+$ && $(readlink "/proc/$pid/cwd" 2>/dev/null) == "${pid_file%/*}" ]] || continue
        kill -QUIT "$pid" 2>/dev/null || continue
        for ((waited = 0; waited < 100; waited++)); do
            [[ -d /proc/$pid ]] || break
            sleep 0.1
        done
    done < <(find "$private_dir" -name postmaster.pid 2>/dev/null)
}

# shellcheck disable=SC2317 # called by the trap
leave_private_dir() {
    local status=$?
    set +e # nothing here may keep the rest from being cleared
    trap '' INT TERM HUP
    if [[ -n $inside_group ]]; then
        kill -TERM -- "-$inside_group"
        wait "$inside_group"
    fi 2>/dev/null
    if [[ -n $private_dir ]]; then
        stop_private_servers
        rm -rf "$private_dir"
    fi
    exit "$status"
}

# Makes the private folder and chooses the user to whom it belongs.
make_private_dir() {
    local name
    # Under /tmp itself: a socket's path has room for 107 bytes only.
    private_dir=$(mktemp -d /tmp/lockguard.XXXXXX)
    trap leave_private_dir EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    mkdir "$private_dir/source" "$private_dir/tmp"
    if [[ $(id -u) -eq 0 ]]; then
        for name in postgres nobody; do
            if id -u "$name" >/dev/null 2>&1; then
                inside_user=(setpriv "--reuid=$name" "--regid=$(id -g "$name")" --clear-groups)
                chown -R "$name:" "$private_dir"
                return
            fi
        done
        die "needs an unprivileged user: neither postgres nor nobody exists"
    fi
}

# run_inside [NAME=VALUE...] SCRIPT [ARGUMENT...]: runs SCRIPT of a private copy of the source tree as
# an unprivileged user, with a clean environment and what is named. Returns its exit status.
run_inside() {
    local source_tree status=0
    source_tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    [[ -n $private_dir ]] || make_private_dir
    # Build results of the user's own tree stay out.
    tar -C "$source_tree" --exclude=./.git --exclude='./build*' --exclude='*.o' --exclude='*.so' \
        --exclude='*.d' --exclude=./results --exclude=./output_iso --exclude=./tmp_check -cf - . |
        tar -C "$private_dir/source" -xf -
    [[ ${#inside_user[@]} -eq 0 ]] || chown -R --reference="$private_dir" "$private_dir/source"
    # In a process group of its own, so that all of it can be told to stop.
    set -m
    (
        cd "$private_dir/source"
        exec "${inside_user[@]}" env -i PATH="$PATH" HOME="$private_dir" TMPDIR="$private_dir/tmp" \
            LANG=C.UTF-8 LC_ALL=C.UTF-8 TERM="${TERM:-dumb}" \
            LOCKGUARD_PRIVATE="$private_dir" LOCKGUARD_INSTALLED="$installed_packages" \
            PG_CONFIG="${PG_CONFIG:-}" "$@"
    ) </dev/null &
    inside_group=$!
    set +m
    wait "$inside_group" || status=$?
    inside_group=
    return "$status"
}

# ---------------------------------------------------------------------------------------------
# Inside: a private PostgreSQL

need_inside() {
    [[ -n ${LOCKGUARD_PRIVATE:-} ]] || die "is run by another script, not by hand"
    export WERROR=1 # for make: our own warnings are errors here
}

jobs_count() { nproc; }

# Copies the installation that PG_CONFIG belongs to, and points PG_CONFIG at the copy. A server
# finds its own files relative to its program, so the copy keeps their paths below a new root.
copy_postgres() {
    local root=$LOCKGUARD_PRIVATE/postgres bindir folder
    [[ ! -d $root ]] || return 0
    # Debian's /usr/bin/pg_config is a wrapper; the real one is beside the server.
    bindir=$("$PG_CONFIG" --bindir)
    [[ -x $bindir/postgres && -x $bindir/pg_config && -x $bindir/initdb ]] ||
        die "no PostgreSQL server in $bindir"
    for folder in "$bindir" "$("$PG_CONFIG" --pkglibdir)" "$("$PG_CONFIG" --sharedir)"; do
        mkdir -p "$root${folder%/*}"
        # What is installed there may be readable for its owner alone: leave that out.
        cp -R --preserve=mode,timestamps,links "$folder" "$root${folder%/*}/"
    done
    for folder in "$("$PG_CONFIG" --pkgincludedir)" "$("$PG_CONFIG" --libdir)"; do
        [[ -e $root$folder ]] || { mkdir -p "$root${folder%/*}" && ln -s "$folder" "$root$folder"; }
    done
    PG_CONFIG=$root$bindir/pg_config
    [[ $("$PG_CONFIG" --pkglibdir) == "$root"* && $("$PG_CONFIG" --sharedir) == "$root"* ]] ||
        die "this PostgreSQL cannot be moved: its pg_config does not follow a copy"
    export PG_CONFIG
    PATH=$root$bindir:$PATH
}

# Builds the module and installs it into the private PostgreSQL.
install_lockguard() {
    copy_postgres
    make -s -j"$(jobs_count)" PG_CONFIG="$PG_CONFIG" &&
        make -s install PG_CONFIG="$PG_CONFIG" >/dev/null
}

# start_private_postgres [CONF_FILE...]: a new server on a socket of its own, without TCP, for the
# superuser postgres. Sets PGHOST, PGUSER, PGDATABASE, PGDATA.
start_private_postgres() {
    export PGDATA=$LOCKGUARD_PRIVATE/data PGHOST=$LOCKGUARD_PRIVATE/socket PGUSER=postgres \
        PGDATABASE=postgres PGPORT=5432
    rm -rf "$PGDATA" "$PGHOST"
    mkdir -m 700 "$PGHOST"
    initdb --auth=trust --username=postgres --encoding=UTF8 --locale=C.UTF-8 --no-sync \
        >"$LOCKGUARD_PRIVATE/initdb.log" 2>&1 ||
        { cat "$LOCKGUARD_PRIVATE/initdb.log"; return 1; }
    {
        printf "%s = '%s'\n" listen_addresses '' unix_socket_directories "$PGHOST"
        [[ $# -eq 0 ]] || cat "$@"
    } >>"$PGDATA/postgresql.conf"
    pg_ctl -w -t 60 -l "$LOCKGUARD_PRIVATE/server.log" start >"$LOCKGUARD_PRIVATE/pg_ctl.log" 2>&1 ||
        { cat "$LOCKGUARD_PRIVATE/pg_ctl.log" "$LOCKGUARD_PRIVATE/server.log"; return 1; }
}

stop_private_postgres() {
    local status=0
    pg_ctl -w -t 60 -m fast stop >>"$LOCKGUARD_PRIVATE/pg_ctl.log" 2>&1 || status=$?
    unset PGDATA PGHOST PGUSER PGDATABASE PGPORT
    return "$status"
}

# ---------------------------------------------------------------------------------------------
# Inside: counting tests

# Sets logs, a folder.
start_counting() {
    logs=$LOCKGUARD_PRIVATE/logs
    mkdir -p "$logs"
    passed=0
    failed=0
    SECONDS=0
}

# The last line, after what stays on the machine. Its status is 0 where no test failed and there were any.
end_counting() {
    [[ -z ${LOCKGUARD_INSTALLED:-} ]] || say "" "packages installed for this, which stay: $LOCKGUARD_INSTALLED"
    printf '\n%d passed, %d failed (%d s)\n' "$passed" "$failed" "$SECONDS"
    [[ $failed -eq 0 && $passed -gt 0 ]]
}

title() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

# count PASSED FAILED
count() {
    passed=$((passed + $1))
    failed=$((failed + $2))
}

# One check is one test: check NAME COMMAND... runs it and shows its output where it fails.
check() {
    local name=$1
    shift
    if "$@" >"$logs/check.log" 2>&1; then
        say "ok: $name"
        count 1 0
    else
        say "FAILED: $name"
        cat "$logs/check.log"
        count 0 1
        return 1
    fi
}

# Of a server's log: what a test may not have noticed.
no_crash() { ! grep -E 'PANIC|TRAP:|terminated by signal|all server processes terminated' "$@"; }

# prove_alone FILE...: runs each test by itself, against servers that it starts, and counts. Of one that fails the
# logs' ends are shown.
prove_alone() {
    local pgxs file status total log=$LOCKGUARD_PRIVATE/tap/tmp_check/log
    pgxs=$(dirname "$("$PG_CONFIG" --pgxs)")/../..
    for file in "$@"; do
        mkdir -p "$log"
        status=0
        env PERL5LIB="$pgxs/src/test/perl" PG_REGRESS="$pgxs/src/test/regress/pg_regress" \
            TESTDIR="$LOCKGUARD_PRIVATE/tap" TESTDATADIR="$LOCKGUARD_PRIVATE/tap/tmp_check" TESTLOGDIR="$log" \
            prove "$file" 2>&1 | tee "$logs/tap.log" || status=$?
        total=$(sed -nE 's/^Files=[0-9]+, Tests=([0-9]+),.*/\1/p' "$logs/tap.log")
        if [[ $status -eq 0 ]]; then
            count "${total:-0}" 0
        else
            count 0 1
            tail -n 50 "$log"/*
        fi
        check "$file: no crash in a server log" no_crash "$log"/*.log || true
        rm -rf "$LOCKGUARD_PRIVATE/tap"
    done
}
