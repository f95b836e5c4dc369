"""Campaigns: many models under one budget, in an order, with one stop button."""
