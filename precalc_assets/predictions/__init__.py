"""Turn a model's output into typed predictions: text cells, manifest, validation, Parquet, and loading."""
