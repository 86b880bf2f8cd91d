"""From any source to one float model, in a guarded process of its own."""
