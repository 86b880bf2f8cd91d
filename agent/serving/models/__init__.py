"""Loaded releases: how each is run on this device, and which stay in memory."""
