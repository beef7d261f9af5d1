"""Tracking tools that users may enable for their runs, one plugin module each."""
