"""What each device should run: the only writer of its generation."""
