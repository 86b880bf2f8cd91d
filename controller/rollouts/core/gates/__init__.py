"""Rules that a wave must pass, each from evidence to a verdict."""
