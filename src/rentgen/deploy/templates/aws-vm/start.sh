#!/usr/bin/env bash
# User data of an EC2 machine with a Deep Learning AMI: fetches image and bundle, and serves on loopback. Rentgen @version.
# It runs at the first start. Reach it through a tunnel: ssh -L @port:127.0.0.1:@port ubuntu@@ADDRESS
set -euo pipefail

registry="$(printf '%s' "@image" | cut -d/ -f1)"
aws ecr get-login-password --region "@region" | docker login --username AWS --password-stdin "$registry"
docker pull "@image"
mkdir -p /var/lib/rentgen/model /var/lib/rentgen/data
chmod 0777 /var/lib/rentgen/data
@fetch
docker rm --force rentgen >/dev/null 2>&1 || true
# The network of the host, so that "on loopback only" means this machine's own.
docker run --detach --name rentgen --restart unless-stopped --stop-timeout @grace @gpus \
  --network host --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
  --volume /var/lib/rentgen/data:/data \
  --env RENTGEN_HOST=127.0.0.1 --env RENTGEN_DATABASE=sqlite:////data/rentgen.db \
  @models \
  "@image" @serve
