"""Keys and signatures: the TUF repository, and the director that seals Desired and Pulse."""
