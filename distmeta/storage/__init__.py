"""Files of a run, on this machine or at any URI that ``pyarrow.fs`` opens, and the cache."""
