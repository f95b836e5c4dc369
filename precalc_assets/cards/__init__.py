"""The card of a model: a summary for readers, with plots of its predictions.

The Lambda imports this package to read cards (`model_card`) and to draw plots (`plots`), so it imports nothing heavy.
`publishing` gathers cards and puts them into the registry, and `distributions` counts values.
"""
