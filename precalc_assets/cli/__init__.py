"""The platform's commands, which it adds to the client's `precalc`; they call the same functions that Dagster calls.

`app` has the commands and their options, the other modules what they do.
"""
