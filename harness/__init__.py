"""The core of xscore-harness: hooks, the frozen protocol, the runner, results and the score."""

__version__ = "0.1.0"
