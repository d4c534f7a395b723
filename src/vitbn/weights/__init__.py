"""A file, a run or a hub ID -> a network."""
