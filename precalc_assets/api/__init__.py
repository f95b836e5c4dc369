"""The read API: predictions by InChIKey over HTTP, one code for Lambda and for a local server.

`served` knows the models, `routes` what can be asked, `answers` what it looks like, `openapi` how that is described.
`handler` is Lambda's way in; `server` answers on this machine, by making the events that a Lambda gets. But for
`server`, all of it goes into a Lambda of a few MB: no Dagster, no data frames, no RDKit.
"""
