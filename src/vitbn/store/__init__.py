"""What lies on disk: runs, results, locks, checkpoint files."""

try:
    import fcntl  # noqa: F401 - for the locks; what else of POSIX is needed comes with it
except ImportError:
    raise SystemExit("error: vitbn runs on Linux and macOS; on Windows use its Subsystem for Linux (WSL)") from None
