"""Measurements: ratios against a baseline in the same run. `make bench` prints the table."""
