#!/bin/sh
# Builds the physician's page from page/ into the package. Needs Node 20 or newer; to run the page needs none.
# The hash of what it was built from is kept beside it, so that a test can tell a stale page without Node.
set -eu
cd "$(dirname "$0")/.."

sources_hash() {
    find page/src page/index.html page/package.json page/tsconfig.json page/vite.config.ts src/rentgen/outputs/words.json \
        -type f | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -d ' ' -f 1
}

if [ "${1:-}" = "--hash" ]; then
    sources_hash
    exit
fi
command -v npm >/dev/null || { echo "Building the page needs Node and npm; the built page is in the package already."; exit 1; }
[ -d page/node_modules ] || npm --prefix page ci --ignore-scripts
npm --prefix page test
npm --prefix page run build
sources_hash > src/rentgen/service/web/source.sha256
