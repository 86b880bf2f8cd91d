"""The model card: facts, plots, one page."""
