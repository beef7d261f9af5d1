"""The 11 mobile architectures at a common budget of 2.5M trainable parameters, one plugin per file.

Each has 2.50M +-2 % parameters at 100 classes, counted as trained and with the head. Block types are the papers' own;
only widths and depths are scaled. Regularisation (dropout, stochastic depth) follows the benchmark's authors.
"""
