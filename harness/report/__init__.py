"""Finished results -> leaderboards, and one self-contained HTML page with tables and figures."""
