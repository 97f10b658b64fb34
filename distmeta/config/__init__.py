"""Settings as people write them: text, sections, messages about them; it knows no kind of task, model or algorithm."""
