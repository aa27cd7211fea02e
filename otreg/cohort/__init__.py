"""Many subjects: batches, templates, statistics."""
