"""Models: their folders, metadata, recipes, environments, fetching and policy."""
