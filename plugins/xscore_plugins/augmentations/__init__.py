"""Training-time augmentations of whole batches, one plugin module each."""
