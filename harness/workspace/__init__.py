"""Joins benchmark, plugins, runs folder and data folder in one value, and gives the finished results there."""
