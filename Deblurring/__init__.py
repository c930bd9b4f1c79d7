"""Single-image motion deblurring: its configuration, data sets, train.py and test.py."""
