"""The serving process: answers inference from the slots that the plan names."""
