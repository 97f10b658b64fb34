"""Runs and sweeps submitted to a Ray cluster."""
