"""Results: the files of a run's folder, and the lock on it."""
