"""Single-image deraining: its configuration, data sets, train.py and test.py."""
