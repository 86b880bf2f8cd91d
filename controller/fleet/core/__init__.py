"""What the fleet decides: who is alive, and whom a label query chooses."""
