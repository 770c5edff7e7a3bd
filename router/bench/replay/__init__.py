"""A trace of requests, replayed against a simulated fleet in virtual time, with the gateway's own routing."""
