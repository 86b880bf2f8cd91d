"""How callers ask: every protocol over the one engine."""
