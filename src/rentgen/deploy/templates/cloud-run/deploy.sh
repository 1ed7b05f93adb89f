#!/usr/bin/env bash
# Makes or replaces the Cloud Run service. Rentgen @version. Nobody may call it until you say who:
#   gcloud run services add-iam-policy-binding @name --member=user:YOU --role=roles/run.invoker
set -euo pipefail
cd "$(dirname "$0")"

gcloud run services replace service.yaml --project="@project" --region="@region"
