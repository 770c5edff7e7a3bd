"""A day of load over a fleet that grows and shrinks as the autoscaler wants, in virtual time."""
