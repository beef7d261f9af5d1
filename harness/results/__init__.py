"""Results on disk: where each job's files are, what they hold, and what state a job is in."""
