"""Architectural elements of models, found in their operations, and their association with the score."""
