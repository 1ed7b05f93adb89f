"""Inference without torch."""
