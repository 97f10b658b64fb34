"""What the metrics of :data:`distmeta.objectives.metrics.KNOWN_METRICS` compute, by the kind of target.

Each takes the predictions of one task, its targets and the examples' weights (``None`` where all count alike), and
gives a scalar: NaN where the metric is not defined for the task.
"""
