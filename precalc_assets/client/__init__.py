"""What the platform adds to the client, by the entry points of pyproject.toml.

`local_tables` reads predictions from the tables without an API; `missing_predictions` runs a model on molecules that
are not precalculated.
"""
