#!/bin/sh
# Installs the peers of the interop matrix from their package registries.
#
#   setup.sh [DIR [PEER...]]
#
# DIR defaults to target/interop-peers of the repository, where matrix.py looks. PEER is any of
# py js0 js1 rust; without one all are installed. Running it again brings DIR up to date.
# Needs python3 (3.11 or later, with venv), node and npm (18 or later), cargo.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
dir=${1:-$here/../../target/interop-peers}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- py js0 js1 rust

mkdir -p "$dir"
dir=$(CDPATH='' cd -- "$dir" && pwd)

install_py() {
    [ -x "$dir/py/bin/python" ] || "${PYTHON:-python3}" -m venv "$dir/py"
    "$dir/py/bin/python" -m pip install --quiet --disable-pip-version-check \
        --requirement "$here/peers/py/requirements.txt"
}

# The modules go to DIR, the program stays where it is and finds them by NODE_PATH.
install_js() {
    mkdir -p "$dir/$1"
    if ! cmp -s "$here/peers/$1/package-lock.json" "$dir/$1/node_modules/.installed"; then
        cp "$here/peers/$1/package.json" "$here/peers/$1/package-lock.json" "$dir/$1/"
        npm ci --prefix "$dir/$1" --no-audit --no-fund --ignore-scripts --loglevel error
        cp "$here/peers/$1/package-lock.json" "$dir/$1/node_modules/.installed"
    fi
}

install_rust() {
    cargo build --release --locked --quiet \
        --manifest-path "$here/peers/rust/Cargo.toml" --target-dir "$dir/rust"
}

for peer in "$@"; do
    case $peer in
        py) install_py ;;
        js0 | js1) install_js "$peer" ;;
        rust) install_rust ;;
        *)
            echo "setup.sh: no peer is called $peer; there are py js0 js1 rust" >&2
            exit 2
            ;;
    esac
    echo "$peer is installed in $dir/$peer"
done
