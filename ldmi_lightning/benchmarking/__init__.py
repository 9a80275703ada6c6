"""A grid of runs, and its tables and figure: data × noise pattern × r × method × seed."""
