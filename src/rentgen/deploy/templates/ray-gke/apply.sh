#!/usr/bin/env bash
# Makes the cluster and starts the training on it. Rentgen @version.
# The end: kubectl delete --filename rayjob.yaml --filename raycluster.yaml (the cache's disk goes with it)
set -euo pipefail
cd "$(dirname "$0")"

kubectl apply --filename raycluster.yaml
kubectl wait --for=condition=HeadPodReady --timeout=15m "raycluster/@name"
kubectl apply --filename rayjob.yaml
echo "How it goes: kubectl get rayjob @name-train"
echo "The dashboard, on this machine alone: kubectl port-forward service/@name-head-svc 8265"
