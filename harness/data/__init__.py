"""Turns the sources of a data set into checked, memory-mapped uint8 arrays with a fingerprint."""
