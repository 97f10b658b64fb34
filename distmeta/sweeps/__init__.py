"""Sweeps: files, trials, results and plots."""
