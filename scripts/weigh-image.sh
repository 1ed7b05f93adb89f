#!/bin/sh
# Install as the Dockerfile's stage build-serve does, into a temporary environment, and say what it weighs. No engine is needed.
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/rentgen"
"$folder/rentgen/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir --no-compile \
    --constraint constraints.txt '.[service,postgres,telemetry]' google-cloud-storage
find "$folder/rentgen" -type d \( -name tests -o -name test -o -name __pycache__ \) -prune -exec rm -rf '{}' +
find "$folder/rentgen" -type f -name '*.pyi' -delete
"$folder/rentgen/bin/python" -m compileall -q "$folder/rentgen/lib"
"$folder/rentgen/bin/pip" uninstall --quiet --yes pip setuptools
echo "installed packages of the target serve: $(du -sm "$folder/rentgen" | cut -f1) MB"
