"""From the float model to the bytes of a recipe."""
