"""One file per job type: the only place that combines steps and opens files."""
