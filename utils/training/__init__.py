"""One training: built from its configuration, run, logged, saved and resumed."""
