"""Deltas between artifacts: which pairs the fleet needs, having them made, and publishing them."""
