"""Tests of litefleet."""
