"""The container on Vertex AI, SageMaker and Azure Machine Learning: what it is told, checked, rendered and uploaded."""
