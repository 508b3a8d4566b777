"""How servicers answer what cannot be done: with a status code for programs and one line for people."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import grpc

from xds_server.errors import BadRequestError, JournalError, LostLeaseError, SteeringError, UnknownNameError

MAX_TEXT: Final = 1_000  # characters of a name, of who and of a reason

_CODES: Final = (
    (UnknownNameError, grpc.StatusCode.NOT_FOUND),
    (LostLeaseError, grpc.StatusCode.NOT_FOUND),
    (BadRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (SteeringError, grpc.StatusCode.FAILED_PRECONDITION),
)


@asynccontextmanager
async def answering(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """Answer what a person can do something about with its status code and one line."""
    try:
        yield
    except SteeringError as error:
        await context.abort(next(code for kind, code in _CODES if isinstance(error, kind)), str(error))
    except JournalError as error:
        await context.abort(grpc.StatusCode.INTERNAL, str(error))


def require(**fields: str) -> None:
    """Refuse a request in which one of these is empty."""
    for name, value in fields.items():
        if not value:
            raise BadRequestError(f"{name} is missing")


def bound(*texts: str) -> None:
    """Refuse a request with a text that is too long."""
    for text in texts:
        if len(text) > MAX_TEXT:
            raise BadRequestError(f"'{text[:20]}…' has {len(text)} characters; legal: up to {MAX_TEXT}")
