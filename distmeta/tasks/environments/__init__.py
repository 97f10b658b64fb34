"""Environments of reinforcement-learning tasks: one file each, in batches of all tasks and episodes of a shard."""
