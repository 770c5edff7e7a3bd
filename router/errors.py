"""What can go wrong, and whose fault it is: every error is a decision about status, blame and what the client is told.

    RequestError
      ClientFault          the request cannot be served as it stands
        InvalidRequest       400, names the field
        UnknownModel         404
        NotAllowed           401, 403
          WrongKey             401, not the key that clients need
        NotFound             404, no such path
        MethodNotAllowed     405
        UnsupportedMedia     415
        TooLarge             413
        Malformed            400, 408, 414, 417, 431, 505: no request that this server reads
      EngineRefusal        an engine's own 4xx: passed on, nobody is blamed, nothing is retried
      Unavailable          503 + Retry-After: no usable engine, or no room
      EngineFault          502: the engine broke its side
        ConnectFailed        no byte was sent, so nothing can have happened there
          OutOfFiles           the gateway may open no more files; says nothing of the engine
        ConnectionLost       it went away in mid-exchange
        EngineTimeout        504
          OutOfTime            the request's own time was over; says nothing of the engine
        EngineError          it answered 5xx
          ErrorEvent           a stream's event told of a failure
        BadAnswer            it answered, but not with what was asked for
          OversizedAnswer      more than the gateway takes; what the client asked for may be the reason
        BadHandoff           its hand-over parameters must not be used
      ClientGone           nobody is left to be told
      InternalFault        500: the gateway itself failed; what was not foreseen

Library exceptions are mapped to these once, where the library is called.
"""

import math
from enum import StrEnum
from typing import Self


class Leg(StrEnum):
    """The two requests that one of a client becomes; a lone engine's is the decode leg."""

    PREFILL = "prefill"
    DECODE = "decode"


class Outcome(StrEnum):
    """How a request ended, as the metrics tell it."""

    OK = "ok"
    CLIENT_ERROR = "client_error"
    CLIENT_GONE = "client_gone"
    REJECTED = "rejected"
    UPSTREAM_ERROR = "upstream_error"
    TIMEOUT = "timeout"
    INTERNAL_ERROR = "internal_error"


class RequestError(Exception):
    """Ends a request without the answer that was asked for.

    `message` is for the client: it never names an engine. `detail` is for the log. `param` is the offending body field.
    """

    status = 500
    type = "internal_error"
    code = "internal_error"
    outcome = Outcome.INTERNAL_ERROR

    def __init__(self, message: str, *, param: str | None = None, detail: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.detail = detail


class ClientFault(RequestError):
    """The request cannot be served as it stands."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"
    outcome = Outcome.CLIENT_ERROR


class InvalidRequest(ClientFault):
    """A field is missing, malformed or not allowed."""


class UnknownModel(ClientFault):
    """No engine of the fleet serves the model."""

    status = 404
    code = "model_not_found"


class NotAllowed(ClientFault):
    """Who asks has not shown that it may."""

    code = "not_allowed"

    def __init__(self, message: str, *, status: int = 403) -> None:
        super().__init__(message)
        self.status = status


class WrongKey(NotAllowed):
    """The key that clients of this gateway need is missing or another."""

    code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__("a key is needed here, as authorization: Bearer KEY, and this is not it", status=401)


class NotFound(ClientFault):
    """There is no such path."""

    status = 404
    code = "not_found"


class MethodNotAllowed(ClientFault):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class UnsupportedMedia(ClientFault):
    """The body is not plain JSON: another content type, or a compressed one."""

    status = 415
    code = "unsupported_media_type"


class TooLarge(ClientFault):
    """The body is over `edge.max_body_bytes`."""

    status = 413
    code = "request_too_large"


class Malformed(ClientFault):
    """What came is no request that this server reads: its framing, its size, its pace. The connection is closed."""

    code = "malformed_request"

    def __init__(self, message: str, *, status: int = 400, code: str = "malformed_request") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class EngineRefusal(RequestError):
    """An engine said 4xx. Its status and body are the answer; `body` is the engine's JSON."""

    type = "invalid_request_error"
    code = "engine_refusal"
    outcome = Outcome.CLIENT_ERROR

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"the engine refused the request with status {status}")
        self.status = status
        self.body = body


class Unavailable(RequestError):
    """Nothing can take the request now; `retry_after_s` says when to try again."""

    status = 503
    type = "service_unavailable"
    code = "unavailable"
    outcome = Outcome.REJECTED

    def __init__(self, message: str, *, code: str = "unavailable", retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s


class EngineFault(RequestError):
    """An engine broke its side of the exchange; `reason` is the short name that metrics count it under."""

    status = 502
    type = "upstream_error"
    code = "upstream_error"
    outcome = Outcome.UPSTREAM_ERROR
    reason = "engine_fault"

    leg: Leg | None = None
    """In which leg it failed, once that is known."""

    tries_used_up = False
    """The gateway has tried elsewhere already, so that the client need not at once."""

    def __init__(self, detail: str, *, message: str = "the engine failed to answer this request") -> None:
        super().__init__(message, detail=detail)

    def in_leg(self, leg: Leg) -> Self:
        """The same, with its leg."""
        self.leg = leg
        return self


class ConnectFailed(EngineFault):
    """No connection could be made, so no byte was sent."""

    reason = "connect_failed"


class OutOfFiles(ConnectFailed):
    """The gateway itself may open no more files, so it could not even try."""

    status = 503
    type = "service_unavailable"
    code = "out_of_files"
    reason = "out_of_files"
    outcome = Outcome.REJECTED

    def __init__(self, detail: str) -> None:
        super().__init__(detail, message="the gateway has no room for more connections")


class ConnectionLost(EngineFault):
    """The connection ended before the answer did."""

    reason = "connection_lost"


class EngineTimeout(EngineFault):
    """The engine did not answer in time; it was waited for since a moment (loop time)."""

    status = 504
    type = "timeout"
    code = "upstream_timeout"
    reason = "timeout"
    outcome = Outcome.TIMEOUT

    def __init__(self, detail: str, waited_since: float = math.inf) -> None:
        super().__init__(detail, message="the engine did not answer in time")
        self.waited_since = waited_since


class OutOfTime(EngineTimeout):
    """The request's own time, `timeouts.total_s`, was over while the engine was at work."""

    reason = "total_time"


class EngineError(EngineFault):
    """The engine answered 5xx; `answered` is the status."""

    reason = "engine_error"

    def __init__(self, detail: str, answered: int = 500) -> None:
        super().__init__(detail)
        self.answered = answered

    @property
    def overloaded(self) -> bool:
        """It has no room, which is not to be broken."""
        return self.answered == Unavailable.status


class ErrorEvent(EngineError):
    """An event of a 200 stream told of a failure; as the first event, it is a hand-over that could not be loaded."""

    reason = "error_event"


class BadAnswer(EngineFault):
    """The engine answered with something else than what was asked for."""

    reason = "bad_answer"

    over = False
    """All of the answer was there: the engine is done with the request."""


class OversizedAnswer(BadAnswer):
    """An answer, or an event of one, larger than the gateway takes."""

    reason = "oversized_answer"


class BadHandoff(EngineFault):
    """A prefill answer whose hand-over parameters are missing, malformed, foreign or too old."""

    reason = "bad_handoff"


class ClientGone(RequestError):
    """The client closed its connection; nobody reads an answer."""

    status = 499
    code = "client_gone"
    outcome = Outcome.CLIENT_GONE

    def __init__(self) -> None:
        super().__init__("the client closed the connection")


class InternalFault(RequestError):
    """The gateway itself failed, in a way that nobody foresaw; the log has where."""

    def __init__(self, detail: str) -> None:
        super().__init__("the gateway failed to answer this request", detail=detail)
