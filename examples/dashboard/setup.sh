#!/bin/sh
# Installs what building the page and its test need beside node and npm: the packages
# of package-lock.json, and Chromium if there is none.
set -eu
cd "$(dirname "$0")"
if ! command -v chromium >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends chromium fonts-dejavu-core
fi
if ! cmp -s package-lock.json node_modules/.installed; then
    npm ci --no-audit --no-fund --ignore-scripts --loglevel error
    cp package-lock.json node_modules/.installed
fi
chromium --version
