"""A certificate authority, the certificates it signed, and a kubeconfig for each user."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

from places import ADDRESS, API_SERVER, KUBECONFIG, NODE, PKI

NAMES = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
NAMES += ["kubernetes.default.svc.cluster.local"]
ADDRESSES = ["127.0.0.1", ADDRESS, "10.96.0.1"]
USERS = {
    "admin": "/O=system:masters/CN=admin",
    "kcm": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "kubelet": f"/O=system:nodes/CN=system:node:{NODE}",
}
"""The subject of each user that has a kubeconfig."""


def make() -> None:
    """Write what isn't there yet."""
    PKI.mkdir(parents=True, exist_ok=True)
    KUBECONFIG.mkdir(parents=True, exist_ok=True)
    if not (PKI / "ca.crt").exists():
        _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "365", "-subj", "/CN=test-ca",
                 "-keyout", "ca.key", "-out", "ca.crt")  # fmt: skip
    if not (PKI / "sa.key").exists():
        _openssl("genrsa", "-out", "sa.key", "2048")
        _openssl("rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub")
    alternatives = ",".join([f"DNS:{name}" for name in NAMES] + [f"IP:{address}" for address in ADDRESSES])
    _sign("apiserver", "/CN=kube-apiserver", f"extendedKeyUsage=serverAuth\nsubjectAltName={alternatives}\n")
    _sign("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")
    for name, subject in USERS.items():
        _sign(name, subject)
        user = {
            "client-certificate-data": _encoded(f"{name}.crt"),
            "client-key-data": _encoded(f"{name}.key"),
        }
        write_kubeconfig(KUBECONFIG / f"{name}.conf", user)


def write_kubeconfig(path: Path, user: dict[str, str], namespace: str = "default") -> Path:
    """A kubeconfig for the cluster (JSON is YAML), readable by its owner alone."""
    cluster = {"server": API_SERVER, "certificate-authority-data": _encoded("ca.crt")}
    context = {"cluster": "test", "user": "user", "namespace": namespace}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "test", "context": context}],
        "current-context": "test",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(document, indent=1))
    return path


def _sign(name: str, subject: str, extensions: str = "extendedKeyUsage=clientAuth\n") -> None:
    if (PKI / f"{name}.crt").exists():
        return
    _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", subject,
             "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
    (PKI / f"{name}.ext").write_text(extensions)
    _openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
             "-days", "365", "-out", f"{name}.crt", "-extfile", f"{name}.ext")  # fmt: skip


def _encoded(name: str) -> str:
    return base64.b64encode((PKI / name).read_bytes()).decode()


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], cwd=PKI, check=True, capture_output=True)
