"""The device daemon: takes sealed releases, serves them, and goes back by itself when one is bad."""
