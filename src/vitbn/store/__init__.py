"""What lies on disk: runs, results, locks, checkpoint files."""
