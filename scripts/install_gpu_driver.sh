#!/usr/bin/env bash
# Install a software Vulkan driver (Mesa lavapipe) that the ML Drift GPU delegate accepts, for machines without a GPU.
#
#   scripts/install_gpu_driver.sh
#
# Debian 12 or newer, Ubuntu 24.04 or newer, Fedora. Needs root or sudo; does nothing where such a driver is installed.
# Mesa must be 25 or newer: the delegate refuses Debian 12's own 22.3 ("shaderUniform*ArrayDynamicIndexing required"),
# so there the driver comes from bookworm-backports. That suite's source entry is derived from the machine's own entry
# (same mirror, same key) and serves this installation only: the machine's apt configuration stays as it is.
set -euo pipefail

min_mesa=25
packages=(mesa-vulkan-drivers libvulkan1)

fail() {
    echo "install_gpu_driver: $*" >&2
    exit 1
}

major() { # 1:25.0.7-2~bpo12+1 -> 25; nothing -> 0
    local version=${1#*:}
    [[ ${version%%.*} =~ ^[0-9]+$ ]] && echo "${version%%.*}" || echo 0
}

mesa_version() {
    if command -v dpkg-query >/dev/null; then
        dpkg-query -W -f='${db:Status-Status} ${Version}\n' mesa-vulkan-drivers 2>/dev/null | sed -n 's/^installed //p'
    elif command -v rpm >/dev/null; then
        rpm -q --qf '%{VERSION}\n' mesa-vulkan-drivers 2>/dev/null || true
    fi | head -n 1
}

have_driver() {
    (($(major "$(mesa_version)") >= min_mesa)) &&
        compgen -G '/usr/share/vulkan/icd.d/lvp_icd*.json' >/dev/null &&
        { compgen -G '/usr/lib/*/libvulkan.so.1' || compgen -G '/usr/lib*/libvulkan.so.1'; } >/dev/null
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "installing a driver needs root, and there is no sudo here; run this script as root"
    fi
}

# The distribution's own entries (suites SUITE, SUITE-updates, SUITE-security with component main) out of the machine's
# sources, in both of apt's formats. Other people's sources, which may be out of reach, stay out of it.
distribution_sources() { # SUITE FOLDER
    local suite=$1 folder=$2 file name
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        [[ -r $file ]] || continue
        name=machine-$(basename "$file" | sed 's/^sources\.list$/sources.list.list/')
        if [[ $file == *.sources ]]; then
            grep -v '^#' "$file" | awk -v suite="$suite" '
                BEGIN { RS = ""; ORS = "\n\n" }
                tolower($0) ~ /(^|\n)enabled: *no/ { next }
                $0 ~ "(^|\n)Suites:[^\n]*[ \t]" suite "(-updates|-security)?([ \t\n]|$)" && /(^|\n)Components:[^\n]*[ \t]main([ \t\n]|$)/
            ' >"$folder/$name" || true
        else
            grep -E "^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?[^[:space:]]+[[:space:]]+$suite(-updates|-security)?[[:space:]]+(.*[[:space:]])?main([[:space:]]|$)" \
                "$file" >"$folder/$name" || true
        fi
        [[ -s $folder/$name ]] || rm "$folder/$name"
    done
}

# The same entries, for SUITE only, pointed at SUITE-backports.
backports_sources() { # SUITE FOLDER
    local suite=$1 folder=$2 file
    for file in "$folder"/machine-*; do
        case $file in
            *.sources)
                awk -v suite="$suite" '
                    BEGIN { RS = ""; ORS = "\n\n" }
                    $0 !~ "(^|\n)Suites:[^\n]*[ \t]" suite "([ \t\n]|$)" { next }
                    { gsub(/(^|\n)Suites:[^\n]*/, "\nSuites: " suite "-backports"); sub(/^\n/, ""); print }
                ' "$file" >"${file/machine-/backports-}" ;;
            *)
                sed -nE "s/^(deb[[:space:]]+(\[[^]]*\][[:space:]]+)?[^[:space:]]+[[:space:]]+$suite)([[:space:]])/\1-backports\3/p" \
                    "$file" >"${file/machine-/backports-}" ;;
        esac
    done
}

candidate() { apt-cache "${apt_options[@]}" policy mesa-vulkan-drivers | sed -n 's/^ *Candidate: //p'; }

# A source that can't be reached is apt's to complain about; what counts is which version there is to install.
update() { as_root apt-get "${apt_options[@]}" update || true; }

install_with_apt() {
    local suite=$1 folder offers target=""
    folder=$(mktemp -d)
    # shellcheck disable=SC2064  # the folder's name as it is now
    trap "rm -rf '$folder'" EXIT
    chmod 755 "$folder" # apt reads it as its own user
    apt_options=(-o APT::Get::List-Cleanup=0 -o Acquire::Retries=1)
    distribution_sources "$suite" "$folder"
    if compgen -G "$folder/machine-*" >/dev/null; then
        apt_options+=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$folder")
    fi
    update
    if (($(major "$(candidate)") < min_mesa)); then
        backports_sources "$suite" "$folder"
        update
        target="/$suite-backports"
        offers=$(apt-cache "${apt_options[@]}" madison mesa-vulkan-drivers)
        [[ $offers == *"$suite-backports"* ]] ||
            fail "$PRETTY_NAME offers Mesa $(candidate) and nothing newer in $suite-backports, but ML Drift needs" \
                "$min_mesa: check the network if apt complained above, or use Debian 12, Ubuntu 24.04 or newer"
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get "${apt_options[@]}" install -y --no-install-recommends \
        "${packages[0]}$target" "${packages[@]:1}"
}

if have_driver; then
    echo "Mesa $(mesa_version) with lavapipe is installed already"
    exit 0
fi
[[ -r /etc/os-release ]] || fail "this is no Linux with an /etc/os-release; install Mesa $min_mesa with lavapipe by hand"
# shellcheck source=/dev/null
. /etc/os-release
case " ${ID:-} ${ID_LIKE:-} " in
    *" debian "* | *" ubuntu "*) install_with_apt "${VERSION_CODENAME:-stable}" ;;
    *" fedora "*) as_root dnf install -y mesa-vulkan-drivers vulkan-loader ;;
    *) fail "don't know how to install packages on ${PRETTY_NAME:-this system}; install Mesa $min_mesa with lavapipe by hand" ;;
esac
have_driver || fail "the packages went in, but Mesa is $(mesa_version) and lavapipe or libvulkan.so.1 is missing"
echo "Mesa $(mesa_version) with lavapipe is installed; \`python -m validate.gpu\` names the adapter"
