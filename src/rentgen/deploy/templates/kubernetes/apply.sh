#!/usr/bin/env bash
# Makes the secret, once, and the service. Rentgen @version. To train: kubectl apply --filename job.yaml
set -euo pipefail
cd "$(dirname "$0")"

kubectl get secret "@name-key" >/dev/null 2>&1 ||
  kubectl create secret generic "@name-key" --from-literal=key="$(head --bytes=32 /dev/urandom | base64)"
kubectl apply --filename deployment.yaml
kubectl rollout status "deployment/@name"

echo "A first key: kubectl exec deploy/@name -- rentgen keys add FIRST --role admin"
