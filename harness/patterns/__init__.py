"""Which architectural elements a model has, seen in what it computes, and what they have to do with its score."""
