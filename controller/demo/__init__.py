"""The whole job on one machine: a real controller, broker and fleet, real models, a bad release and two attacks.

Nothing in the product knows of this package: it drives the public commands and the public API only.
"""
