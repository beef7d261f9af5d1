"""Finds architectural elements in a model's operations, and gives their association with the score."""
