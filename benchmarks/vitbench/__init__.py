"""How fast, against what people would use instead: all arms alternate in one process."""
