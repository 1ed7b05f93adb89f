"""Where runs are kept track of: an MLflow server, TensorBoard's files."""
