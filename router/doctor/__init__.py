"""Can this fleet hand over? Every pair is tried, as the gateway would, before clients do."""
