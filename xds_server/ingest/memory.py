"""What has been found out once and comes again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Memory(dict[_Key, _Value]):
    """`find` of each key that is asked for. At most `limit`: beyond it all are forgotten, which costs a moment."""

    __slots__ = ("_find", "_limit")

    def __init__(self, find: Callable[[_Key], _Value], limit: int) -> None:
        super().__init__()
        self._find = find
        self._limit = limit

    def __missing__(self, key: _Key) -> _Value:
        if len(self) >= self._limit:
            self.clear()
        value = self[key] = self._find(key)
        return value
