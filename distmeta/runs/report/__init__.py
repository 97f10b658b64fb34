"""Reports of runs and sweeps: one self-contained HTML page, which needs no network."""
