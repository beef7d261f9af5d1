"""The reference data sets, one module each."""
