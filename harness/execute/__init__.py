"""Trains the jobs of a plan, in processes here or on a cluster, and gives the outcome of each job."""
