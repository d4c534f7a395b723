"""From files to augmented batches on the training device."""
