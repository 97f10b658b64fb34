"""Workers as Ray actors, and Ray itself as a run needs it."""
