#!/usr/bin/env bash
# Brings what the tests and the demo need for real: a Docker engine with Compose, sshd, Prometheus, a browser and a few tools.
#
#   tests/provision.sh            install what is missing; exit 0 even if something could not be had
#   tests/provision.sh --require  the same, but exit 1 if anything is missing in the end
#   tests/provision.sh --newest   also Compose and engine of Debian sid, beside the machine's own:
#                                 DOCKER_CONFIG=/usr/local/lib/reconciler-tests/newest has tests use that Compose
#
# Installs on Debian as root; elsewhere it only says what is missing and how to get it. No service is started or
# left enabled to start during the installation: the tests start what they need and end it again.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin

readonly compose_plugin=/usr/libexec/docker/cli-plugins/docker-compose
readonly tools=/usr/local/lib/reconciler-tests
readonly newest=$tools/newest
readonly newest_python=$tools/python
# What judges whether pages can be used by everybody: one file, of the npm package axe-core.
readonly axe=$tools/axe.min.js
readonly axe_version=4.14.1
readonly axe_sha512=1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b734f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5
readonly image_base=$tools/debian-13.tar
# What deploy/docker/Dockerfile installs: the base has it already, so that a test's build needs no network.
readonly image_packages=ca-certificates,docker-cli,docker-compose,git,openssh-client,python3,python3-venv
readonly policy=/usr/sbin/policy-rc.d
readonly policy_mark='# temporary, by reconciler tests/provision.sh'
readonly components=(engine compose nodes sshd busybox prometheus alertmanager chromium axe strace gpg git venv shells systemd python base)

declare -rA label=(
    [engine]='docker engine'
    [compose]='compose plugin'
    [nodes]='iproute2'
    [sshd]='openssh server and client'
    [busybox]='static busybox'
    [prometheus]='prometheus and promtool'
    [alertmanager]='alertmanager and amtool'
    [chromium]='chromium'
    [axe]='axe-core'
    [strace]='strace'
    [gpg]='gnupg'
    [git]='git'
    [venv]='python venv module'
    [shells]='zsh and fish'
    [systemd]='systemd'
    [python]='newest Python of Debian'
    [base]='base of the Docker image'
)
declare -rA packages=(
    [engine]='docker.io iptables'
    [compose]='docker-compose'
    [nodes]='iproute2 iptables'
    [sshd]='openssh-server openssh-client'
    [busybox]='busybox-static'
    [prometheus]='prometheus'
    [alertmanager]='prometheus-alertmanager'
    [chromium]='chromium'
    [axe]='npm'
    [strace]='strace'
    [gpg]='gnupg'
    [git]='git'
    [venv]='python3-venv'
    [shells]='zsh fish'
    [systemd]='systemd'
    [python]='patchelf'
    [base]='debootstrap'
)

scratch=
lists_are_new=no

# --- what is there -----------------------------------------------------------------------------------------------

has() { command -v "$@" >/dev/null 2>&1; }

present() { # COMPONENT
    case $1 in
        engine) has docker && { { has dockerd && has iptables; } || timeout 10 docker version >/dev/null 2>&1; } ;;
        # The old docker-compose (v1) is a program of its own; a plugin that answers is v2 or newer.
        compose) has docker && timeout 10 docker compose version >/dev/null 2>&1 ;;
        nodes) has ip && has iptables && has nsenter && has unshare ;;
        shells) has zsh && has fish ;;
        sshd) has sshd && has ssh && has ssh-keygen ;;
        busybox) static /bin/busybox || static /usr/bin/busybox ;;
        prometheus) has prometheus && has promtool ;;
        alertmanager) has prometheus-alertmanager && has amtool ;;
        # Not as this machine's process 1: the tests run it in namespaces.
        systemd) [[ -x /lib/systemd/systemd ]] && has systemctl && has unshare && has nsenter ;;
        python) "$newest_python/bin/python" -c 'import ssl, sqlite3' >/dev/null 2>&1 ;;
        axe) [[ $(head -n 1 "$axe" 2>/dev/null) == "/*! axe v$axe_version" ]] ;;
        base) [[ -s $image_base && $(cat "$image_base.packages" 2>/dev/null) == "$image_packages" ]] ;;
        venv) python3 -c 'import ensurepip, venv' >/dev/null 2>&1 ;;
        *) has "$1" ;;
    esac
}

static() { # FILE: an image holds no C library for it
    [[ -x $1 ]] || return 1
    local needs
    needs=$(ldd "$1" 2>&1 || true)
    [[ $needs == *'not a dynamic executable'* || $needs == *'statically linked'* ]]
}

# --- installing --------------------------------------------------------------------------------------------------

apt() { # ARGUMENTS…: quiet, asks nothing, waits for another apt; what it prints is shown only if it fails
    local log=$scratch/apt.log
    if ! DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get -q -y -oDPkg::Lock::Timeout=300 -oDPkg::Use-Pty=0 "$@" >"$log" 2>&1 </dev/null; then
        tail -n 5 "$log" | sed 's/^/    /' >&2
        return 1
    fi
}

update_lists_once() {
    [[ $lists_are_new == no ]] || return 0
    lists_are_new=yes
    apt update || echo '    package lists: could not be updated, going on with the ones at hand' >&2
}

install_packages() { # PACKAGE…
    update_lists_once
    apt install --no-install-recommends "$@"
}

install_component() { # COMPONENT
    if [[ $1 == compose && $(debian_version) -le 12 ]]; then
        echo "${label[$1]}: installing from Debian 13's docker-compose package"
        install_compose_plugin
    elif [[ $1 == python ]]; then
        echo "${label[$1]}: unpacking that of Debian sid"
        install_newest_python
    elif [[ $1 == axe ]]; then
        echo "${label[$1]}: fetching axe-core $axe_version with npm"
        fetch_axe
    elif [[ $1 == base ]]; then
        echo "${label[$1]}: a Debian 13, made with debootstrap (a minute or more)"
        make_image_base
    else
        echo "${label[$1]}: installing ${packages[$1]}"
        # shellcheck disable=SC2086  # several packages
        install_packages ${packages[$1]}
    fi && present "$1"
}

# Debian 12 has only Compose v1. One file of Debian 13's package is all it takes, so the machine's own package
# sources stay as they are: the lists and the download live in the scratch directory.
install_compose_plugin() {
    unpack_from trixie docker-compose || return 1
    install -D -m 755 "$scratch/trixie$compose_plugin" "$compose_plugin"
}

# Compose and engine of Debian sid, as files beside the machine's own: nothing else uses them. An engine is started with
# PATH=$newest/bin:$PATH and places of its own, as reconciler/demo/dockerd.py does; the machine's runc serves it.
install_newest() {
    unpack_from sid docker-compose docker.io docker-cli containerd || return 1
    install -D -m 755 "$scratch/sid$compose_plugin" "$newest/cli-plugins/docker-compose"
    install -D -m 755 -t "$newest/bin" "$scratch/sid"/usr/sbin/dockerd "$scratch/sid"/usr/bin/docker \
        "$scratch/sid"/usr/bin/{containerd,containerd-shim-runc-v2}
    find "$scratch/sid" -name docker-proxy -type f -exec install -m 755 -t "$newest/bin" {} +
    "$newest/cli-plugins/docker-compose" version && "$newest/bin/dockerd" --version
}

# The newest Python of Debian sid with every library that it needs, libc too, as files beside the machine's own.
install_newest_python() {
    local version library
    install_packages patchelf && prepare_release sid || return 1
    version=$(apt-cache "${release_options[@]}" pkgnames python3. | grep -xE 'python3\.[0-9]+' | sort -V | tail -n 1)
    # shellcheck disable=SC2046  # a list of packages
    unpack_from sid $(
        apt-cache "${release_options[@]}" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
            --no-replaces --no-enhances "$version" | grep -E '^(lib|python|zlib|media-types|netbase|tzdata)'
    ) || return 1
    library=$newest_python/usr/lib/$(uname -m)-linux-gnu
    rm -rf "$newest_python" && mkdir -p "$newest_python/bin"
    cp -a "$scratch/sid/usr" "$newest_python/usr"
    patchelf --set-interpreter "$(find "$library" -name 'ld-linux-*')" --force-rpath --set-rpath "$library" \
        "$newest_python/usr/bin/$version"
    ln -s "../usr/bin/$version" "$newest_python/bin/python"
    "$newest_python/bin/python" --version
}

fetch_axe() {
    has npm || install_packages npm || return 1
    (cd "$scratch" && npm pack --silent "axe-core@$axe_version" >/dev/null) || return 1
    echo "$axe_sha512  $scratch/axe-core-$axe_version.tgz" | sha512sum --check --quiet || return 1
    tar --extract --gzip --file="$scratch/axe-core-$axe_version.tgz" --directory="$scratch" package/axe.min.js
    install -D -m 644 "$scratch/package/axe.min.js" "$axe"
}

# The archive that `docker import` makes an image of. Without package sources: what it lacks, no build can add.
make_image_base() {
    local root=$scratch/base mirror keyring
    read -r mirror keyring < <(debian_mirror)
    install_packages debootstrap || return 1
    if ! debootstrap ${keyring:+--keyring="$keyring"} --variant=minbase --include="$image_packages" \
        trixie "$root" "$mirror" >"$scratch/debootstrap.log" 2>&1; then
        tail -n 5 "$scratch/debootstrap.log" | sed 's/^/    /' >&2
        return 1
    fi
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/etc/apt/sources.list* "$root"/var/log/* \
        "$root"/usr/share/{doc,locale,man}/*
    mkdir -p "$tools"
    tar --create --file="$image_base.new" --directory="$root" --numeric-owner --one-file-system \
        --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' .
    mv "$image_base.new" "$image_base"
    echo "$image_packages" >"$image_base.packages"
}

release_options=()

prepare_release() { # RELEASE: its package lists, in the scratch directory; apt reads them with release_options
    local release=$1
    release_options=(
        "-oDir::Etc::sourcelist=$scratch/$release.list" -oDir::Etc::sourceparts=-
        "-oDir::State::Lists=$scratch/lists-$release" "-oDir::Cache=$scratch/cache-$release"
    )
    [[ ! -e $scratch/$release.list ]] || return 0
    update_lists_once
    mkdir -p "$scratch/lists-$release/partial" "$scratch/cache-$release/archives/partial" "$scratch/debs-$release"
    debian_source "$release" >"$scratch/$release.list"
    if ! apt "${release_options[@]}" update; then
        echo '    trying again with the newest archive keys' >&2
        install_packages debian-archive-keyring
        apt "${release_options[@]}" update || return 1
    fi
}

unpack_from() { # RELEASE PACKAGE…: their files, below $scratch/RELEASE
    local release=$1 package
    shift
    prepare_release "$release" || return 1
    (cd "$scratch/debs-$release" && apt "${release_options[@]}" download "$@") || return 1
    for package in "$scratch/debs-$release"/*.deb; do
        dpkg-deb --extract "$package" "$scratch/$release" || return 1
    done
}

debian_source() { # RELEASE: the line for apt
    local mirror keyring
    read -r mirror keyring < <(debian_mirror)
    echo "deb ${keyring:+[signed-by=$keyring] }$mirror $1 main"
}

# The machine's own Debian mirror, and the key file its entry names.
debian_mirror() {
    local mirror='' entry='' keyring=''
    # shellcheck disable=SC2016  # apt fills these in
    read -r mirror entry < <(
        apt-get indextargets --format '$(REPO_URI) $(SOURCESENTRY)' \
            'Created-By: Packages' 'Origin: Debian' 'Component: main' "Codename: $(debian_codename)" 2>/dev/null
    ) || true
    if [[ -f ${entry%:*} ]]; then
        keyring=$(sed -nE 's/.*[Ss]igned-[Bb]y[=:] *(\/[^] ,]+).*/\1/p' "${entry%:*}" | head -n 1)
    fi
    if [[ -z $keyring && -f /usr/share/keyrings/debian-archive-keyring.gpg ]]; then
        keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    fi
    echo "${mirror:-http://deb.debian.org/debian} $keyring"
}

hold_services() { # a package must not start what it brings
    [[ ! -e $policy ]] || return 0
    printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" >"$policy"
    chmod 755 "$policy"
}

# shellcheck disable=SC2317  # called by the trap
tidy_up() {
    if [[ -f $policy ]] && grep -qF "$policy_mark" "$policy"; then rm -f "$policy"; fi
    rm -rf "$scratch"
}

prepare() {
    exec 9>/run/lock/reconciler-provision.lock
    flock 9
    scratch=$(mktemp -d)
    trap tidy_up EXIT
    # apt downloads as the user _apt
    chmod 755 "$scratch"
    chown _apt "$scratch" 2>/dev/null || true
    hold_services
}

# --- which machine -----------------------------------------------------------------------------------------------

release() { # FIELD of os-release
    # shellcheck disable=SC1091
    (. /etc/os-release 2>/dev/null && echo "${!1:-}")
}

debian_version() { # testing and unstable have no number
    local version
    version=$(release VERSION_ID)
    echo "${version:-99}"
}

debian_codename() { release VERSION_CODENAME; }

can_install() { [[ $EUID -eq 0 && $(release ID) == debian ]]; }

how_to_get() { # COMPONENT
    if [[ $1 == python || $1 == base || $1 == axe ]]; then
        echo "'make provision' makes it, on Debian as root"
    elif [[ $(release ID) != debian ]]; then
        echo "install what Debian has as: ${packages[$1]}"
    elif [[ $1 == compose && $(debian_version) -le 12 ]]; then
        echo "run 'make provision' as root"
    else
        echo "run 'make provision' as root, or: apt-get install ${packages[$1]}"
    fi
}

# --- the whole ---------------------------------------------------------------------------------------------------

main() {
    local require=no component missing=() failed=()
    case ${1:-} in
        '') ;;
        --require) require=yes ;;
        --newest)
            can_install || { echo "only on Debian, as root" >&2 && exit 1; }
            prepare
            install_newest
            exit
            ;;
        *)
            echo "usage: $0 [--require | --newest]" >&2
            exit 2
            ;;
    esac

    for component in "${components[@]}"; do
        if present "$component"; then
            echo "${label[$component]}: present"
        else
            missing+=("$component")
        fi
    done
    if ((${#missing[@]} > 0)) && can_install; then prepare; fi

    for component in "${missing[@]}"; do
        if ! can_install; then
            echo "${label[$component]}: missing; $(how_to_get "$component")"
            failed+=("${label[$component]}")
        elif ! install_component "$component"; then
            echo "${label[$component]}: could not be installed" >&2
            failed+=("${label[$component]}")
        fi
    done

    if ((${#failed[@]} > 0)); then
        echo "missing in the end: $(printf '%s, ' "${failed[@]}" | sed 's/, $//')" >&2
        [[ $require == no ]]
    fi
}

main "$@"
