#!/usr/bin/env bash
# Makes a Ray cluster on Vertex AI by its REST interface. It costs from then on until delete.sh. Rentgen @version.
set -euo pipefail
cd "$(dirname "$0")"

place="https://@region-aiplatform.googleapis.com/v1/projects/@project/locations/@region/persistentResources"
token="$(gcloud auth print-access-token)"
curl --fail-with-body --silent --show-error --request POST "$place?persistentResourceId=@name" \
  --header "Authorization: Bearer $token" --header "Content-Type: application/json" --data "$(<cluster.json)"
echo "How it goes: gcloud ai persistent-resources describe @name --project=@project --region=@region"
echo "When its state is RUNNING: python submit.py"
