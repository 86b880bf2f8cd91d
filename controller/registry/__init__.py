"""Models, versions, datasets, conversions and the releases made of them."""
