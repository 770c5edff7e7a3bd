"""How slowly may a client send?"""


def body_deadline(begun_at: float, received_bytes: int, timeout_s: float, min_bytes_per_s: int) -> float:
    """When a body is too slow, as of what has come: over its whole time, or behind its rate after a first grace."""
    return begun_at + min(timeout_s, RATE_GRACE_S + received_bytes / min_bytes_per_s)


RATE_GRACE_S = 5.0
"""A body may be late by this much before its rate is judged: a lost packet on a far link is repeated by then."""
