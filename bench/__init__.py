"""Load tests, and what they measure with."""
