"""What people type: the keys, their types and choices, sweeps over them, one line for what does not fit."""
