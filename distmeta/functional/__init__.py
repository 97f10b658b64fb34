"""A user's module as a function of its parameters, alone or mapped over tasks."""
