"""What several tests stand on: real brokers and databases, and waiting for a condition."""
