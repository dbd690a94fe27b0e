# shellcheck shell=bash
# shellcheck disable=SC2154 # of lib.sh: inside_user, private_dir
# Debian's source packages, for scripts/test-core, scripts/test-sanitizers and scripts/test-neighbours. To be sourced after lib.sh.

# as_inside_user COMMAND...: as the user who owns the private folder, with the environment that we have.
as_inside_user() { "${inside_user[@]}" "$@"; }

# give_inside FROM TO: a copy of a folder, for the unprivileged user.
give_inside() {
    as_inside_user mkdir -p "${2%/*}"
    cp -R --preserve=mode,timestamps,links "$1" "$2"
    [[ ${#inside_user[@]} -eq 0 ]] || chown -R --reference="$private_dir" "$2"
}

# The machine's sources of packages as sources of source packages, in files of our own.
list_sources() {
    local apt=$1 file
    mkdir -p "$apt/sources.list.d" "$apt/lists/partial" "$apt/cache/archives/partial"
    : >"$apt/sources.list"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [[ ! -r $file ]] || sed -nE 's/^[[:space:]]*deb([[:space:]])/deb-src\1/p' "$file" >>"$apt/sources.list"
    done
    for file in /etc/apt/sources.list.d/*.sources; do
        [[ ! -r $file ]] || sed -E 's/^types:.*/Types: deb-src/I' "$file" >"$apt/sources.list.d/${file##*/}"
    done
}

# fetch_source PACKAGE FOLDER: unpacks Debian's source package there. A mirror may lack the newest
# version that it lists: then the next one.
fetch_source() {
    local package=$1 folder=$2 apt=$private_dir/apt log=$private_dir/apt.log versions version options
    [[ -d $apt ]] || list_sources "$apt"
    mkdir -p "$folder"
    [[ ${#inside_user[@]} -eq 0 ]] || chown -R --reference="$private_dir" "$apt" "$folder"
    options=(-q -o "Dir::Etc::SourceList=$apt/sources.list" -o "Dir::Etc::SourceParts=$apt/sources.list.d"
        -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache")
    as_inside_user apt-get "${options[@]}" update >"$log" 2>&1 || {
        cat "$log"
        die "apt-get cannot read the lists of source packages"
    }
    versions=$(as_inside_user apt-cache "${options[@]}" --only-source showsrc "$package" 2>>"$log" |
        sed -n 's/^Version: //p' | sort -rVu)
    [[ -n $versions ]] || die "the machine's package sources have no source package $package"
    for version in $versions; do
        if (cd "$folder" && as_inside_user apt-get "${options[@]}" source "$package=$version") >>"$log" 2>&1; then
            say "source: $package $version"
            return
        fi
        say "source: $package $version cannot be fetched"
        rm -rf "${folder:?}"/*
    done
    tail -n 20 "$log"
    die "no version of $package can be fetched"
}
