"""The read API: predictions by InChIKey over HTTP, one ASGI application for Lambdas and for a local server.

`served` keeps models open, `routes` and its neighbours answer, `answers` has the forms of answers, and `documents`
describes them. `middleware` is around all routes, `framework` is FastAPI as they use it. `gateway` and the handlers are
the way in from API Gateway; `server` and `limits` are the one on this machine. But for these two, all of it goes into a
Lambda of a few MB: no Dagster, no data frames, no RDKit.
"""
