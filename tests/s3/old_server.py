"""An S3 server as before conditional writes: the real one, behind a proxy that takes the condition away."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import server
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from flaky import FlakyProxy, _Handler

REFUSAL = (
    b"<Error><Code>NotImplemented</Code><Message>A header you provided is not implemented</Message></Error>"
)


class _OldHandler(_Handler):
    server: OldServer

    def any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "If-None-Match" not in self.headers:
            self.reply(*self.forwarded(body))
        elif self.server.refuses:
            self.reply(501, [("Content-Type", "application/xml")], REFUSAL)
        else:
            self.server.ignored += 1
            del self.headers["If-None-Match"]
            self._sign_again(body)
            self.reply(*self.forwarded(body))

    do_PUT = any  # noqa: N815

    def _sign_again(self, body: bytes) -> None:
        signed = {"x-amz-content-sha256", "x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm"}
        headers = {name: value for name, value in self.headers.items() if name.lower() in signed}
        url = f"http://{self.headers['Host']}{self.path}"
        request = AWSRequest(self.command, url, headers=headers, data=body)
        S3SigV4Auth(Credentials(*server.CREDENTIALS.values()), "s3", server.REGION).add_auth(request)
        for name, value in request.headers.items():
            del self.headers[name]
            self.headers[name] = value


class OldServer(FlakyProxy):
    """Refuses a condition with 501, or takes no notice of it."""

    def __init__(self, target: str, *, refuses: bool) -> None:
        super().__init__(target, rate=0, seed=0, host="127.0.0.1", slow_seconds=0)
        self.RequestHandlerClass = _OldHandler
        self.refuses = refuses
        self.ignored = 0


@contextlib.contextmanager
def serving(proxy: FlakyProxy) -> Iterator[str]:
    """Let a proxy run; its URL."""
    with proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}"
        finally:
            proxy.shutdown()
            thread.join()
