"""What a rollout decides: pure planning, and the invariants that check it."""
