"""From run folders to answers: reads files only, imports neither torch nor Hydra."""
