"""Which of a model's releases answers a request, and how they compare."""
