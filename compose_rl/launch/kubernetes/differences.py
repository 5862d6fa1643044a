"""In which fields two objects differ, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

__all__ = ["differences"]

_ABSENT = object()


def differences(wanted: Any, found: Any) -> list[str]:
    """What ``found`` has otherwise, as ``Worker.replicas: 2, yours 4``; what it alone has does not count.

    Lists of objects with names are compared by name.
    """
    return list(_differences(wanted, found, ()))


def _differences(wanted: Any, found: Any, path: tuple[str, ...]) -> Iterator[str]:
    mine, theirs = _fields(wanted), _fields(found)
    if mine is None or theirs is None:
        if wanted != found:
            there = "unset" if found is _ABSENT else found
            yield f"{'.'.join(path[-3:])}: {there}, yours {wanted}"
        return
    for name, value in mine.items():
        yield from _differences(value, theirs.get(name, _ABSENT), (*path, name))


def _fields(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, Mapping):
        return cast(Mapping[str, Any], value)
    items = cast(list[Any], value) if isinstance(value, list) else []
    if items and all(isinstance(item, Mapping) and "name" in item for item in items):
        return {str(item["name"]): item for item in items}
    return None
