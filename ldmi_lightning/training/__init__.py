"""What trains: the module, its stages, and how they follow one another."""
