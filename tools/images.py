"""Build or push the images of the environments: ``tools/images.py build|push control train rollout``.

An image is called ``<registry>/<environment>:<tag>``, as the compiled pipelines call it. Settings of the
builder's package index (the files that pip and uv read on this machine) go into the build as secrets, which
no layer keeps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASES = {
    "control": "docker.io/library/python:3.11-slim-bookworm",
    # With a C compiler and Python's headers, which Triton wants at run time.
    "train": "docker.io/library/python:3.11-bookworm",
    "rollout": "docker.io/library/python:3.11-bookworm",
}
ENGINES = ("docker", "buildah")
SECRETS = {
    "pip": ("PIP_CONFIG_FILE", "~/.config/pip/pip.conf", "~/.pip/pip.conf", "/etc/pip.conf"),
    "uv": ("UV_CONFIG_FILE", "~/.config/uv/uv.toml", "/etc/uv/uv.toml"),
}
"""Where each tool's settings are: a variable that names the file, then places."""
SOURCES = ("compose_rl", "components", "pipelines", "images", "pyproject.toml")
"""What goes into an image."""


def main() -> None:
    options = parse()
    for name in options.names:
        image = f"{options.registry}/{name}:{options.tag}"
        if options.action == "build":
            build(options, name, image)
        else:
            push(options.engine, name, image)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["build", "push"])
    parser.add_argument("names", nargs="+", choices=list(BASES), metavar="|".join(BASES))
    parser.add_argument("--engine", choices=ENGINES, default="docker", help="default: %(default)s")
    parser.add_argument("--registry", default="compose-rl", help="default: %(default)s")
    parser.add_argument("--tag", default=version(), help="default: the project's version, %(default)s")
    parser.add_argument(
        "--base", action="append", default=[], metavar="NAME=IMAGE", help="an image with Python 3.11"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        help="of the engine's build: --option=--network=host",
    )
    options = parser.parse_args()
    options.bases = dict(BASES)
    for item in options.base:
        name, equals, image = item.partition("=")
        if name not in BASES or not equals or not image:
            parser.error(f"--base {item}: write NAME=IMAGE, the name one of {', '.join(BASES)}")
        options.bases[name] = image
    return options


def build(options: argparse.Namespace, name: str, image: str) -> None:
    """Build one image and say how large it is."""
    started = time.monotonic()
    arguments = {
        "ENVIRONMENT": name,
        "BASE": options.bases[name],
        "VERSION": version(),
        "COMMIT": commit(),
        "IMAGE": image,
    }
    words = [options.engine, "build", "--file", "images/Dockerfile", "--tag", image]
    for key, value in arguments.items():
        words += ["--build-arg", f"{key}={value}"]
    for tool, places in SECRETS.items():
        file = first(places)
        if file is not None:
            words += ["--secret", f"id={tool},src={file}"]
    run([*words, *options.option, "."])
    seconds = time.monotonic() - started
    say(f"{image}: {size(options.engine, image)} in {seconds:.0f} s, on {options.bases[name]}")


def size(engine: str, image: str) -> str:
    """As people read it."""
    if engine == "buildah":
        return output([engine, "images", "--format", "{{.Size}}", image])
    return f"{int(output([engine, 'image', 'inspect', '--format', '{{.Size}}', image])) / 1e6:,.0f} MB"


def push(engine: str, name: str, image: str) -> None:
    """Push one image and say how a pipeline is compiled with exactly it."""
    repository = image.rpartition(":")[0]
    if engine == "docker":
        run([engine, "push", "--quiet", image])
        found = output([engine, "image", "inspect", "--format", "{{json .RepoDigests}}", image])
        # docker leaves its own registry out of names.
        place = repository.removeprefix("docker.io/")
        digest = next(
            item.removeprefix(f"{place}@") for item in json.loads(found) if item.startswith(f"{place}@")
        )
    else:
        with tempfile.NamedTemporaryFile() as file:
            run([engine, "push", "--quiet", "--digestfile", file.name, image])
            digest = Path(file.name).read_text().strip()
    say(f"pushed; compile with --image {name}={repository}@{digest}")


def first(places: Sequence[str]) -> Path | None:
    """The first that exists of the file that a variable names and some fixed places."""
    variable, *fixed = places
    named = [os.environ[variable]] if os.environ.get(variable) else []
    return next((path for place in [*named, *fixed] if (path := Path(place).expanduser()).is_file()), None)


def version() -> str:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]["version"]


def commit() -> str:
    """Of the checkout; ``-dirty`` behind it where what goes into the image was changed since."""
    changed = output(["git", "status", "--porcelain", "--", *SOURCES])
    return output(["git", "rev-parse", "HEAD"]) + ("-dirty" if changed else "")


def run(command: list[str]) -> None:
    # docker before 23 takes secrets only so.
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    try:
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    except FileNotFoundError:
        sys.exit(f"images: there is no {command[0]} here; install it or choose another --engine")
    if code:
        sys.exit(f"images: '{' '.join(command)}' failed with exit code {code}")


def output(command: list[str]) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def say(text: str) -> None:
    print(f"images: {text}", flush=True)


if __name__ == "__main__":
    main()
