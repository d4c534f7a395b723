"""Where the curves go besides metrics.csv, which every run writes."""
