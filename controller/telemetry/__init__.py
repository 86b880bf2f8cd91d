"""What devices measured: windowed sketches and per-device running sums."""
