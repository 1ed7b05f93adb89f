#!/usr/bin/env bash
# Uploads a model to Vertex AI, makes an endpoint and puts the model on it. Rentgen @version.
# `rentgen deploy vertex upload` and `deploy` do the same from Python; model.json, endpoint.json and deploy.json are the
# bodies of the REST interface. The image lies in Artifact Registry, in the model's own region.
set -euo pipefail

gcloud ai models upload --project="@project" --region="@region" \
  --model-id="@name" --display-name="@name" \
  --container-image-uri="@image" \
  --container-ports=@port --container-health-route=/health --container-predict-route=/predict \
  @source

gcloud ai endpoints create --project="@project" --region="@region" --display-name="@name"
endpoint="$(gcloud ai endpoints list --project="@project" --region="@region" \
  --filter='displayName="@name"' --format='value(name)' --limit=1)"

gcloud ai endpoints deploy-model "$endpoint" --project="@project" --region="@region" \
  --model="@name" --display-name="@name" --traffic-split=0=100 \
  --min-replica-count=1 --max-replica-count=2 @machine

echo "Ask it:    rentgen deploy vertex predict --endpoint ${endpoint##*/} FILM.png --project @project --region @region"
echo "It costs as long as it is deployed: rentgen deploy vertex undeploy --endpoint ${endpoint##*/}"
