"""Which way would a request take now, and why?"""
