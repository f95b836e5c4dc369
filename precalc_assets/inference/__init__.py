"""Run models robustly: model folders, backends, fault-tolerant batches, resumable parts, and the canary."""
