"""Who may ask, how often, and over which connections."""
