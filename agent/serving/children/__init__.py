"""What runs in a throw-away child: trials and measurements."""
