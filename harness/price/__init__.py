"""Estimates of the time, memory, disk and energy that jobs take."""
