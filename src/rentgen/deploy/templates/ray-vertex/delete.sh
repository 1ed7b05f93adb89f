#!/usr/bin/env bash
# Takes the cluster away: it costs until then, asked or not. Rentgen @version.
set -euo pipefail

place="https://@region-aiplatform.googleapis.com/v1/projects/@project/locations/@region/persistentResources"
token="$(gcloud auth print-access-token)"
curl --fail-with-body --silent --show-error --request DELETE "$place/@name" --header "Authorization: Bearer $token"
