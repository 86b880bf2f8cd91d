"""What the registry decides: which artifacts are wanted, and what a release holds."""
