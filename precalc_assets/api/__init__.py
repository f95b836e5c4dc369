"""The read API: predictions by InChIKey over HTTP, one ASGI application for Lambdas and for a local server.

`served` keeps models open, `routes` and its neighbours answer, `answers` has the forms of answers, and `documents`
describes them. `middleware` is around all routes, `fastapi_base` is FastAPI as they use it. Requests come in through
`gateway` and the handlers from API Gateway, and through `server` and `limits` on this machine. All but these two, and
the handlers of RDKit and of screens, goes into a Lambda of a few MB: no Dagster, no data frames, no RDKit.
"""
