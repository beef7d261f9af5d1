"""Checks every claim of a finished run against files, code and data, and gives a verdict per claim."""
