"""A recorded corpus of requests over every door with their answers: what the wire says must not change unnoticed.

`python -m tests.corpus.record` records the answers anew; `tests/test_corpus.py` replays the requests and compares.
"""
