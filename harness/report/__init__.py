"""Results -> tables for people."""
