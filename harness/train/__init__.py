"""Trains one job under its protocol, and gives weights, history, test predictions and a record of the run."""
