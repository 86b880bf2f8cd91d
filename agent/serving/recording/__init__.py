"""What is counted, sampled and written down of requests."""
