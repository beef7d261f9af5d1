"""Tracking tools that follow runs where the user switches them on, one plugin module each."""
