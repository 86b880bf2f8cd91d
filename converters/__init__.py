"""Trained models in, measured TFLite out; isolated, and the only place with a training framework."""
