#!/usr/bin/env bash
# Makes environment, endpoint and deployment on Azure Machine Learning. Rentgen @version.
# Resource group and workspace: az configure --defaults group=... workspace=...
# To train: az ml environment create --file train-environment.yml, then az ml job create --file job.yml
set -euo pipefail
cd "$(dirname "$0")"

az ml environment create --file environment.yml
az ml online-endpoint create --file endpoint.yml
az ml online-deployment create --file deployment.yml --all-traffic

echo "Ask it: az ml online-endpoint invoke --name @name --request-file request.json"
echo "It costs as long as it is there: az ml online-endpoint delete --name @name"
