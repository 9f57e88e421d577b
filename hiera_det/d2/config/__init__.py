"""Config keys, schedule and checks."""
