"""What holds for every test: examples that hypothesis makes up are the same each time, however busy the machine is."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")
