#!/usr/bin/env bash
# Makes a model and an endpoint on SageMaker. Rentgen @version. Each JSON file is one request of its interface.
# To train: aws sagemaker create-training-job --cli-input-json file://training-job.json
# In batch: aws sagemaker create-transform-job --cli-input-json file://transform-job.json
set -euo pipefail
cd "$(dirname "$0")"

aws sagemaker create-model --region "@region" --cli-input-json file://model.json
aws sagemaker create-endpoint-config --region "@region" --cli-input-json file://endpoint-config.json
aws sagemaker create-endpoint --region "@region" --cli-input-json file://endpoint.json
aws sagemaker wait endpoint-in-service --region "@region" --endpoint-name "@name"

echo "Ask it: aws sagemaker-runtime invoke-endpoint --region @region --endpoint-name @name \\"
echo "          --content-type image/png --body fileb://FILM.png answer.json"
echo "It costs as long as it is there: aws sagemaker delete-endpoint --region @region --endpoint-name @name"
