"""DynamoDB's prices. `store` has the rules for counting units."""

# Amazon DynamoDB pricing, us-east-1, on-demand capacity, standard table class; as of November 2026.
DOLLARS_PER_WRITE_UNIT = 0.625 / 1_000_000
DOLLARS_PER_GB_MONTH = 0.25
GB = 1 << 30

ITEM_OVERHEAD_BYTES = 100
"""Bytes charged for an item's storage on top of its size (Developer Guide, "DynamoDB item sizes and formats")."""
