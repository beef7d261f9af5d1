"""The 11 mobile architectures at a common budget of 2.5M trainable parameters: one plugin a file, none of them special.

Each has 2.50M +-2 % parameters at 100 classes, counted as trained and with the head. Block types are the papers' own;
only widths and depths are scaled. Where the benchmark's authors regularise (dropout, stochastic depth), so do these.
"""
