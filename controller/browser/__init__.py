"""A release in a browser beside a device: verified here, run in a page on loopback, and compared."""
