"""Where a test cluster's parts lie, and its address."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

ROOT = Path(os.environ.get("CLUSTER_ROOT", "/var/tmp/compose-rl-cluster"))
BIN = ROOT / "bin"
SOURCES = ROOT / "src"
PKI = ROOT / "pki"
KUBECONFIG = ROOT / "kubeconfig"
IMAGES = ROOT / "images"
RUN = ROOT / "run"
"""State of the running cluster, removed by ``down``: data, and a log and a process id for each process."""
FILES = Path(__file__).parent / "files"

ADMIN = KUBECONFIG / "admin.conf"
NODE = socket.gethostname()
ADDRESS = "10.99.0.1"
"""The cluster's address, on a bridge of this machine's own: pods reach it, nothing leaves the machine."""
BRIDGE = "crl-test"
API_SERVER = f"https://{ADDRESS}:6443"

BUCKET = "test"
S3_URL = f"http://{ADDRESS}:9000"
BUSYBOX = "docker.io/local/busybox:1"

# The S3 server is the one of tests/s3.
sys.path.insert(0, str(Path(__file__).parents[2] / "s3"))
