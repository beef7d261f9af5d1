"""Stores results in the runs folder, and gives what is stored there and the state of every job."""
