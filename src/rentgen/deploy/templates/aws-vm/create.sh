#!/usr/bin/env bash
# Makes an EC2 machine of a Deep Learning AMI that serves. Rentgen @version.
# The AMI's id is looked up by its kind; see "Finding the ID of a DLAMI" in the AMI's developer guide for others.
set -euo pipefail
cd "$(dirname "$0")"
: "${KEY_NAME:?set it to the name of your key pair}"
: "${INSTANCE_PROFILE:?set it to a profile that may read the registry and the bundle}"
: "${AMI_TYPE:=base-oss-nvidia-driver-ubuntu-22.04}"

ami="$(aws ssm get-parameter --region "@region" --query Parameter.Value --output text \
  --name "/aws/service/deeplearning/ami/x86_64/$AMI_TYPE/latest/ami-id")"

aws ec2 run-instances --region "@region" --image-id "$ami" --instance-type "@machine" --count 1 \
  --key-name "$KEY_NAME" --iam-instance-profile "Name=$INSTANCE_PROFILE" --user-data file://start.sh \
  --metadata-options HttpTokens=required,HttpEndpoint=enabled \
  --tag-specifications 'ResourceType=instance,Tags=[{Key=Name,Value=@name}]'

echo "It costs as long as it runs: aws ec2 terminate-instances --region @region --instance-ids ..."
