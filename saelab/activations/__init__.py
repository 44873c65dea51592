"""Activations: captured, stored, shuffled."""
