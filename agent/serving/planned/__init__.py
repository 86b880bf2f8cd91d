"""Which plan is in force: over the link to control, and from disk without it."""
