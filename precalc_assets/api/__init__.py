"""The read API: predictions by InChIKey over HTTP, one code for Lambda and for a local server.

`served` knows the models, `routes` what can be asked, `answers` what it looks like, `handler` is Lambda's way in. All
of it goes into a Lambda of a few MB: no Dagster, no data frames, no RDKit.
"""
