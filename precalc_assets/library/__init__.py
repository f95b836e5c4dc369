"""The reference library: from a file of molecules to shards keyed by InChIKey. `sharding` assigns the shards."""
