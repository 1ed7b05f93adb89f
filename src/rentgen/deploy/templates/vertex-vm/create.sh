#!/usr/bin/env bash
# Makes a Deep Learning VM that serves. Rentgen @version. Families of images come and go; choose one of
#   gcloud compute images list --project deeplearning-platform-release --no-standard-images --format='value(family)'
set -euo pipefail
cd "$(dirname "$0")"
: "${IMAGE_FAMILY:?set it to a family that the command above lists}"
: "${ZONE:=@region-a}"

gcloud compute instances create "@name" --project="@project" --zone="$ZONE" \
  --machine-type="@machine" --image-project=deeplearning-platform-release --image-family="$IMAGE_FAMILY" \
  --boot-disk-size=100GB --scopes=cloud-platform @gpu_flags \
  --metadata-from-file=startup-script=start.sh

echo "It costs as long as it runs: gcloud compute instances delete @name --zone $ZONE"
