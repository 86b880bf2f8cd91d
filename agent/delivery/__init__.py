"""How a release reaches the device's disk: verified, resumable, and atomically in place."""
