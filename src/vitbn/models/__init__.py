"""Networks: torch only, ignorant of Lightning, Hydra and data."""
