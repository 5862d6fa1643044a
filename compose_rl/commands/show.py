"""``compose-rl show``: a manifest, and its lineage back to the raw data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compose_rl.store.manifest import Manifest

__all__ = ["add", "lineage", "run", "size"]

_KEY_DIGITS = 12
_PIPE_WIDTH = 10_000


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uri", help="manifest.json, or the folder that holds it; path or s3:// URI")


def run(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from compose_rl.store.lineage import read_manifest

    # In a pipe nothing may be cut or wrapped: a terminal's width means nothing there.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    manifest = read_manifest(arguments.uri)
    console.print(_facts(manifest))
    for title, rows in _tables(manifest):
        if rows:
            console.print(_table(title, rows))
    console.print(_tree(manifest))


def lineage(manifest: Manifest) -> Iterator[tuple[str, Manifest | str]]:
    """The inputs by name: each one's manifest, or why it can't be read."""
    from compose_rl.errors import UserError
    from compose_rl.store.lineage import read_manifest

    for name, given in manifest.inputs.items():
        try:
            yield name, read_manifest(given.uri)
        except UserError as error:
            yield name, f"{given.stage} {given.key[:_KEY_DIGITS]}: {error}"


def _facts(manifest: Manifest) -> Any:
    rows = {
        "stage": f"{manifest.stage} (version {manifest.version})",
        "key": manifest.key,
        "manifest": manifest.uri,
        "made": f"{manifest.created} in {_seconds(manifest.seconds)}",
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items())),
        "commit": manifest.commit,
        "image": manifest.image,
    }
    return _table("", [(name, value) for name, value in rows.items() if value])


def _tables(manifest: Manifest) -> list[tuple[str, list[tuple[str, str]]]]:
    outputs = [
        (name, f"{len(out.files)} files, {size(sum(file.size for file in out.files))}  {out.uri}")
        for name, out in sorted(manifest.outputs.items())
    ]
    return [
        ("outputs", outputs),
        ("metrics", [(name, f"{value:.6g}") for name, value in sorted(manifest.metrics.items())]),
        ("info", _lines(manifest.info)),
        ("configuration", _lines(manifest.config)),
        ("user code", sorted(manifest.code.items())),
    ]


def _lines(document: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names; what is unset is left out."""
    import json

    found: list[tuple[str, str]] = []
    for name, value in sorted(document.items()):
        if isinstance(value, dict) and value:
            found += _lines(value, f"{prefix}{name}.")
        elif value is not None:
            text = json.dumps(value, ensure_ascii=False)
            found.append((prefix + name, text if len(text) <= 100 else f"{text[:97]}..."))
    return found


def _table(title: str, rows: list[tuple[str, str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table


def _tree(manifest: Manifest) -> Any:
    from rich.text import Text
    from rich.tree import Tree

    def line(name: str, node: Manifest | str) -> Text:
        label = Text(f"{name}: " if name else "")
        if isinstance(node, str):
            return label.append(node, style="red")
        label.append(node.stage, style="bold").append(f" {node.key[:_KEY_DIGITS]} {_seconds(node.seconds)}")
        source = node.info.get("uri") if node.stage == "resolve" else None
        return label.append(f" {source}", style="cyan") if source else label

    def grow(tree: Tree, node: Manifest | str) -> None:
        if not isinstance(node, str):
            for name, below in lineage(node):
                grow(tree.add(line(name, below)), below)

    tree = Tree(line("lineage", manifest))
    grow(tree, manifest)
    return tree


def _seconds(seconds: float) -> str:
    from compose_rl.progress import duration

    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def size(size: float) -> str:
    """``1234`` → ``1.2 kB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
