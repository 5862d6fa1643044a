"""What Kubernetes takes for a name, a label or a quantity, refused here in one line instead of by its API."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from compose_rl.config.schema import problem

__all__ = [
    "DNSLabel",
    "DNSName",
    "Environment",
    "Image",
    "Labels",
    "Quantity",
    "ResourceName",
    "ShortName",
    "check_labels",
]

_DNS = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_WORD = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_IMAGE = re.compile(
    r"([A-Za-z0-9.-]+(:[0-9]+)?/)?"  # registry
    r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CREDENTIAL = re.compile(
    r"(^|_|API)KEY(_ID)?$|TOKEN$|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?$", re.IGNORECASE
)
_CREDENTIAL_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")
_OPERATORS = re.compile(r"PET_.*|MASTER_ADDR|MASTER_PORT|RANK|LOCAL_RANK|WORLD_SIZE")
_OURS = "compose-rl/"


def _dns(longest: int, dots: bool) -> AfterValidator:
    def check(name: str) -> str:
        if len(name) > longest:
            raise ValueError(f"has {len(name)} characters; at most {longest} are allowed")
        if not _DNS.fullmatch(name) or ("." in name and not dots):
            raise ValueError(
                f"not a DNS name; use lower-case letters, digits, '-'{', ' + repr('.') if dots else ''},"
                " a letter or digit at both ends"
            )
        return name

    return AfterValidator(check)


def _number_as_text(value: Any) -> Any:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if plain else value


def _quantity(value: str) -> str:
    if not _QUANTITY.fullmatch(value):
        raise ValueError("not a quantity; write for instance 8, 500m or 64Gi")
    return value


def _image(value: str) -> str:
    if not _IMAGE.fullmatch(value):
        raise ValueError(
            "not an image; write registry/name:tag or registry/name@sha256:..., the name in lower case"
        )
    return value


def _qualified(name: str) -> str:
    """A name with an optional DNS prefix, as label keys and resource names have."""
    prefix, slash, word = name.rpartition("/")
    if slash and (not _DNS.fullmatch(prefix) or len(prefix) > 253):
        raise ValueError(f"'{name}': the part before '/' is no DNS name")
    if not _WORD.fullmatch(word) or len(word) > 63:
        raise ValueError(
            f"'{name}': use at most 63 letters, digits, '-', '_' and '.', a letter or digit at both ends"
        )
    return name


def check_labels(labels: dict[str, str], *, values: bool = True) -> dict[str, str]:
    """Labels as Kubernetes takes them.

    Args:
        values: False for annotations, whose values may be anything.
    """
    for name, value in labels.items():
        _qualified(name)
        if name.startswith(_OURS):
            raise ValueError(
                f"'{name}': names that start with '{_OURS}' are Compose RL's own; choose another"
            )
        if values and value and (not _WORD.fullmatch(value) or len(value) > 63):
            raise ValueError(
                f"'{name}: {value}': use at most 63 letters, digits, '-', '_' and '.',"
                " a letter or digit at both ends"
            )
    return labels


def _environment(given: Any) -> Any:
    """Before anything else looks at it, since a message must not show a value that may be a credential."""
    if not isinstance(given, dict):
        raise problem("env: write a mapping, 'NAME: value' for each variable")
    result: dict[str, str] = {}
    for name, value in given.items():  # pyright: ignore[reportUnknownVariableType]
        text = _number_as_text(value)
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise problem(f"env: {name!r} is no name of a variable; use letters, digits and '_'")
        if not isinstance(text, str):
            raise problem(f"env: {name}: the value is no text; put it in quotes")
        if text and (_CREDENTIAL.search(name) or _CREDENTIAL_IN_URL.search(text)):
            raise problem(
                f"env: {name} looks like a credential; put it into a Secret and name that in 'secrets'"
            )
        if _OPERATORS.fullmatch(name):
            raise problem(f"env: {name} is set by the training operator; remove it")
        result[name] = text
    return result


DNSLabel = Annotated[str, _dns(63, dots=False)]
DNSName = Annotated[str, _dns(253, dots=True)]
ShortName = Annotated[str, _dns(63, dots=True)]
"""A name that is also a label's value."""
Quantity = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_quantity)]
"""``8``, ``500m``, ``64Gi``."""
ResourceName = Annotated[str, AfterValidator(_qualified)]
"""``nvidia.com/gpu``."""
Image = Annotated[str, AfterValidator(_image)]
Labels = Annotated[dict[str, str], AfterValidator(check_labels)]
Annotations = Annotated[dict[str, str], AfterValidator(lambda found: check_labels(found, values=False))]
Environment = Annotated[dict[str, str], BeforeValidator(_environment)]
"""Variables that are no secret."""
