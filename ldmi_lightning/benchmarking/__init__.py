"""A grid of runs, carried out and drawn up: data × noise pattern × r × method × seed."""
