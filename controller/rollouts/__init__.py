"""Bringing a release to a cohort in waves, and stopping when it is bad."""
