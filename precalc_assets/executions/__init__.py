"""Executions on compute backends: their records, the protocol that launches each once, and following them."""
