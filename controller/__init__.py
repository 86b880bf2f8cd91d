"""The cloud side: registry, fleet, rollouts, trust, and the API and command line over them."""
