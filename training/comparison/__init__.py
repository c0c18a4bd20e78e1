"""Comparing networks: the runs of each, what they came to, how fast they answer, and the table and pictures of it."""
