"""Estimates the time, disk and energy that the jobs of a plan take on a device."""
