"""Run a model with the ersilia CLI: fetch and serve it in an isolated HOME, call it over HTTP, and never import it.

The CLI is GPL-3, so it runs as a separate program. This package only uses its commands, its folders and the answers of
its servers.
"""
