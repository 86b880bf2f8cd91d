"""Who answers which share of a model's requests, set by operators on devices, beside what rollouts bring."""
