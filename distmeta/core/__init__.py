"""What crosses processes, and what everything else stands on; it imports nothing of distmeta."""
