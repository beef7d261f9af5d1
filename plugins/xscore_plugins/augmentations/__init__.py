"""Training-time augmentations of whole batches, one plugin module each.

The bits of the flip, the colour jitter and CutMix are certified: changing them needs a new ``harness.registry.RULES``.
"""
