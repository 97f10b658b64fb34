"""Data sets: fetched, checked, and kept as Arrow files."""
