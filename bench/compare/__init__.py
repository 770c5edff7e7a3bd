"""How does the gateway compare with other routers on the same work, in interleaved rounds?"""
