"""Real models to try everything with."""
