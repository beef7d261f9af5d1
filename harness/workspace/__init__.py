"""The place of work: benchmark, catalog, runs folder, data folder, and the finished results there."""
