"""Choosing backbone, preprocessing, head and training of them under a time budget."""
