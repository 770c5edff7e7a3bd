"""A look at a running gateway under load."""
