"""Turns finished results into leaderboards, and into one self-contained HTML page with tables and figures."""
