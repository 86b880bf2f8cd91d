"""What an order makes of what is set. Pure."""
