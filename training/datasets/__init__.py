"""Readers of the public data sets, and the road by which their files arrive."""
