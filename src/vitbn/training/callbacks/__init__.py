"""What is done around every training: files, checkpoints, stopping."""
