"""Datasets: what calibrates, searches and judges, proved and read."""
