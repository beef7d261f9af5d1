"""Checks this machine for one suite, and gives findings with advice; a failing check stops no other."""
