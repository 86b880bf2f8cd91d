"""The operator's command line, over the REST API."""
