"""A Kubeflow Pipelines server: connecting, and what goes wrong on the way as one line."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import kfp
import kfp_server_api
import urllib3
from kfp.client import ServiceAccountTokenVolumeCredentials

from compose_rl.errors import TransientError, UserError

__all__ = ["add_connection", "answering", "connect", "run_link"]

REFUSALS = {
    401: "not logged in; give --token-file, or --cookies-file of a session",
    403: "not allowed; check --namespace and the rights of the account",
}


def add_connection(parser: argparse.ArgumentParser) -> None:
    """The flags that say where a server is and as whom to speak to it; no secret is an argument."""
    group = parser.add_argument_group("the Kubeflow Pipelines server")
    group.add_argument("--host", metavar="URL", help="its address; default: kfp's own, KF_PIPELINES_ENDPOINT")
    group.add_argument("--namespace", help="a user's namespace, where the server has several users")
    group.add_argument(
        "--token-file", type=Path, metavar="FILE", help="a bearer token, read for each request"
    )
    group.add_argument("--cookies-file", type=Path, metavar="FILE", help="the Cookie header of a session")
    group.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="certificates that the server's is checked by"
    )


def connect(options: argparse.Namespace) -> kfp.Client:
    """A client of the server, which answers.

    Raises:
        UserError: no address, no such file, not logged in, or no server of KFP 2 at the address.
        TransientError: no answer.
    """
    host = options.host or os.environ.get("KF_PIPELINES_ENDPOINT")
    if not host or urlsplit(host).scheme not in ("http", "https"):
        raise UserError(f"--host={host or ''}: no address of a KFP server; give --host http(s)://...")
    for flag in ("token_file", "cookies_file", "ca_file"):
        path: Path | None = getattr(options, flag)
        if path is not None and not path.is_file():
            raise UserError(f"--{flag.replace('_', '-')} {path}: no such file; give a readable file")
    with answering(host):
        client = kfp.Client(
            host=host,
            namespace=options.namespace or "kubeflow",
            credentials=ServiceAccountTokenVolumeCredentials(str(options.token_file))
            if options.token_file
            else None,
            cookies=options.cookies_file.read_text(encoding="utf-8").strip()
            if options.cookies_file
            else None,
            ssl_ca_cert=str(options.ca_file) if options.ca_file else None,
        )
        client.list_experiments(page_size=1, namespace=options.namespace)
    return client


@contextlib.contextmanager
def answering(host: str) -> Iterator[None]:
    """Turn what KFP's client raises into one line.

    Raises:
        UserError: the server refuses.
        TransientError: it does not answer, or has an error of its own.
    """
    try:
        with _quiet():
            yield
    except kfp_server_api.ApiException as error:
        raise _refusal(host, error) from None
    except TimeoutError:  # of the health check, which asks again and again
        raise UserError(f"KFP at {host}: no Kubeflow Pipelines 2 API there; check --host") from None
    except urllib3.exceptions.HTTPError as error:
        reason = str(getattr(error, "reason", None) or error)
        raise TransientError(
            f"no answer from KFP at {host}: {' '.join(reason.split())}; check --host and the network"
        ) from None


def _refusal(host: str, error: kfp_server_api.ApiException) -> Exception:
    if error.status in REFUSALS:
        return UserError(f"KFP at {host}: {REFUSALS[error.status]}")
    body = _message(error)
    if error.status == 404 and not str(error.body).startswith("{"):
        return UserError(f"KFP at {host}: no Kubeflow Pipelines 2 API there; check --host")
    if error.status and error.status >= 500 and "invalid" not in body.lower():
        return TransientError(f"KFP at {host}: error {error.status}: {body}; try again")
    return UserError(f"KFP at {host} refuses ({error.status}): {body}")


def _message(error: kfp_server_api.ApiException) -> str:
    """What the server says, without what is for programs."""
    text = str(error.body or error.reason)
    with contextlib.suppress(ValueError, AttributeError):
        text = str(json.loads(text).get("message") or text)
    return " ".join(text.split())[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the client's remarks on its own version, and the links that it prints."""
    logging.getLogger("kfp").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def run_link(host: str, run: str) -> str:
    """A run's page in the UI."""
    ui = os.environ.get("KF_PIPELINES_UI_ENDPOINT") or host
    return f"{ui.rstrip('/')}/#/runs/details/{run}"
