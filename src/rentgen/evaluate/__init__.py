"""Judging: metrics, intervals, plots, reports."""
