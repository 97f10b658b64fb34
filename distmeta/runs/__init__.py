"""Runs: training, evaluation, checkpoints, metrics, and the directory that holds them."""
