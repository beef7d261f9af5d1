"""Faults that users of such tools have reported, each as a small input that this harness once failed on.

Every test goes through the command line as a process of its own, so that ``before_after.py`` can run the same tests
against an older checkout.
"""
