# boto3 comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
"""What S3 or the network says, as one line with a remedy and without a credential."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator
from typing import Any

from compose_rl.errors import TransientError, UserError
from compose_rl.store.base import NotFound

__all__ = ["code", "key_error", "translated"]

_MISSING = {"404", "NoSuchKey", "NotFound"}
_DENIED = "{operation} is denied; give the credentials a policy that allows it on this bucket"
_REGION = "the bucket is in another region; set AWS_REGION to it{expected}"
_OLD_SERVER = (
    "the server does not know what {operation} asks for; set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
    " and AWS_RESPONSE_CHECKSUM_VALIDATION=when_required, or use a later version of it"
)
_FULL = "the storage is full or its quota is used up; free some space"
_USER = {
    "NoSuchBucket": "the bucket does not exist; create it or choose another",
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "MethodNotAllowed": _DENIED,
    "403": _DENIED,
    "InvalidAccessKeyId": "the access key is unknown; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the credentials have expired; renew them",
    "InvalidToken": "the session token is not valid; check AWS_SESSION_TOKEN, or leave it out",
    "InvalidBucketName": "the bucket's name is not valid; check the URI",
    "AuthorizationHeaderMalformed": _REGION,
    "PermanentRedirect": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "301": _REGION,
    "RequestTimeTooSkewed": "this machine's clock and the server's differ by minutes; set them by NTP",
    "RequestExpired": "this machine's clock and the server's differ by minutes; set them by NTP",
    "NotImplemented": _OLD_SERVER,
    "501": _OLD_SERVER,
    "MissingContentMD5": _OLD_SERVER,
    "XAmzContentSHA256Mismatch": _OLD_SERVER,
    "QuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
    "XMinioAdminBucketQuotaExceeded": _FULL,
    "507": _FULL,
}
_RETRIED = {408, 409, 425, 429}
"""Refusals that pass by themselves."""
_SECRET_IN_URL = re.compile(r"(?<=//)[^/\s@]+@")
_EXPECTED_REGION = re.compile(r"expecting '([a-z0-9-]+)'")


@contextlib.contextmanager
def translated(where: str, passed: frozenset[str] = frozenset()) -> Generator[None]:
    """Turn the errors of boto3 into one line about ``where``.

    Args:
        passed: codes that go through as they are.

    Raises:
        NotFound: there is no such object.
        UserError: trying again changes nothing.
        TransientError: it may pass.
    """
    from boto3 import exceptions as boto3_exceptions
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        if code(error) in passed:
            raise
        raise _refused(where, error) from error
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        raise UserError(
            f"{where}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except (
        exceptions.ParamValidationError,
        exceptions.NoRegionError,
        exceptions.ProfileNotFound,
        ValueError,
    ) as error:
        raise UserError(f"{where}: {_line(error)}") from error
    except boto3_exceptions.Boto3Error as error:  # from an upload or a download in parts
        cause = error.__context__
        if isinstance(cause, exceptions.ClientError):
            raise _refused(where, cause) from error
        raise TransientError(f"{where}: {_line(error)}") from error
    except exceptions.BotoCoreError as error:
        raise TransientError(f"{where}: {_line(error)}") from error


def code(error: Any) -> str:
    """The code of a ``ClientError``."""
    return str(error.response.get("Error", {}).get("Code", ""))


def key_error(where: str, operation: str, refused: dict[str, str]) -> Exception:
    """What an operation on many objects says of one of them."""
    text = _USER.get(refused.get("Code", ""))
    if text is None:
        return TransientError(f"{where}: {_line(refused.get('Message', '') or refused.get('Code', ''))}")
    return UserError(f"{where}: {text.format(operation=operation, expected='')}")


def _refused(where: str, error: Any) -> Exception:
    name, line = code(error), _line(error)
    if name in _MISSING:
        return NotFound(f"{where}: not found; check the URI")
    if name in _USER:
        region = _EXPECTED_REGION.search(line)
        expected = f" ({region[1]})" if region else ""
        operation = getattr(error, "operation_name", "the request")
        return UserError(f"{where}: {_USER[name].format(operation=operation, expected=expected)}")
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if 400 <= status < 500 and status not in _RETRIED:
        return UserError(f"{where}: {line}; check the URI, the credentials and AWS_ENDPOINT_URL")
    return TransientError(f"{where}: {line}")


def _line(error: object) -> str:
    """One line; a URL keeps no user and password."""
    return _SECRET_IN_URL.sub("***@", " ".join(str(error).split()))
