"""A finished run -> what can be shown of it: every claim of its result against files, code and data."""
