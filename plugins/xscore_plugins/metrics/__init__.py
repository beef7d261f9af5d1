"""Metrics of the test split's logits, one plugin module each."""
