"""Fuzzing of every reader of foreign bytes: whatever is sent, nothing but the error it documents comes out.

`targets` says what is tried, `mutate` makes cases out of good bytes, `trial` judges one case, `runner` tries many in a
process with bounded memory and time. `python -m tests.fuzz` searches for as long as one likes; the tests take a fixed
number of cases with a fixed seed.
"""
