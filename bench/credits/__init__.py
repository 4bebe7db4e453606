"""Transfers: one by one, gathered, in batches, and beside pgbench."""
