"""Inputs passed once through a frozen encoder: what is computed, where it is kept, and the data module of it."""
