"""Screens: questions by value, over the Parquet files that the models' tables were loaded from.

`query` has the question as data, and `plan` what all engines must agree on. `engine` answers plans with Arrow; `athena`
does so by Amazon Athena, in the statements of `sql`. Expressions that a person writes are read by
`precalc.expressions`; what comes in over HTTP is data, and no text of it is ever run.
"""
