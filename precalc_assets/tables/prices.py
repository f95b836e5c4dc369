"""What Amazon asks for a prediction table. How many units things take is in `store`."""

# Amazon DynamoDB pricing, us-east-1, on-demand capacity, standard table class; as of November 2026.
DOLLARS_PER_WRITE_UNIT = 0.625 / 1_000_000
DOLLARS_PER_GB_MONTH = 0.25
GB = 1 << 30

ITEM_OVERHEAD_BYTES = 100
"""Bytes that are charged for an item's storage beside its own (Developer Guide, "DynamoDB item sizes and formats")."""
