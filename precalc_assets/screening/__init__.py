"""Screens: questions by value, over the Parquet files that the models' tables were loaded from.

`query` has the question and the answer as data, `engine` reads columns and computes answers. Expressions that a person
writes are read by `precalc.expressions`; what comes in over HTTP is data, and no text of it is ever run.
"""
