"""From a network and test sets to scores, tables and pictures."""
