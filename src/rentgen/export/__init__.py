"""Bundles for where others already run: plain ONNX, OpenVINO IR, torch, MLflow."""
