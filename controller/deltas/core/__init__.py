"""Which deltas are worth making: pure."""
