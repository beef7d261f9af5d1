"""What this machine can run, and what is missing: one small check after the other, none of which stops the others."""
