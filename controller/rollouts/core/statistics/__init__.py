"""The tests behind the gates: bounds that hold however often one looks."""
