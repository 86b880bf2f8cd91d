"""What the device decides: pure functions of state and event, without I/O, clock or randomness."""
