"""Which recipe is best, and whether its artifact may be released."""
