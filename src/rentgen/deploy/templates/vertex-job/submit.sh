#!/usr/bin/env bash
# Submits a training job to Vertex AI. Rentgen @version. job.json is the body of the REST interface, job-spec.json its
# inner part, which gcloud takes. The machine may be taken away (SPOT): the job starts again and goes on.
@note
set -euo pipefail
cd "$(dirname "$0")"

gcloud ai custom-jobs create --project="@project" --region="@region" \
  --display-name="@name-train" --config=job-spec.json

echo "The bundle appears in the folder model/ of the output place: see baseOutputDirectory in job.json."
