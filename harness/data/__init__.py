"""Data sets on disk: readers of plugins in, memory-mapped uint8 arrays with a fingerprint out."""
