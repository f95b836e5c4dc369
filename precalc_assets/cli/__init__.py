"""The platform's commands, added to the client's `precalc`; they call the same functions that Dagster calls.

`platform_commands` has the commands and their options, the other modules do their work.
"""
