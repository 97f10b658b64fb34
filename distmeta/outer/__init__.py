"""Outer steps: what becomes of a meta-batch's reduced answers."""
