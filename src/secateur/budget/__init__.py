"""Budgets: counting parameters, units or milliseconds, and choosing the units to keep within a share of them."""
