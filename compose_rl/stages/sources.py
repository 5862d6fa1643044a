"""The files of a pinned source, and of any model, on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from compose_rl.errors import TransientError, UserError
from compose_rl.stages.attempt import fetched
from compose_rl.stages.resolve.content import PICKLES
from compose_rl.store import split
from compose_rl.store.checksums import cache_root, locked, verify
from compose_rl.store.folder import no_space
from compose_rl.store.manifest import File, Manifest

__all__ = ["local_model", "local_source"]


def local_model(manifest: Manifest) -> Path:
    """The Hugging Face folder of a model that is pinned (resolve) or exported, checked against its manifest.

    Raises:
        UserError, TransientError: see :func:`local_source` and :func:`compose_rl.stages.attempt.fetched`.
    """
    if manifest.stage == "resolve":
        return local_source(manifest, cache_root())
    return fetched(manifest, "model")


def local_source(manifest: Manifest, cache: Path) -> Path:
    """The pinned model folder, or the pinned dataset's file or folder.

    In place where it is local; else downloaded once below ``cache``. A hub dataset is its snapshot's folder:
    ``datasets.load_dataset(str(folder), name=info["subset"], split=info["split"])``.

    Args:
        manifest: a manifest of stage ``resolve``.

    Raises:
        UserError: it has changed since it was pinned, or is no longer there.
        TransientError: hub or storage cannot be reached.
    """
    info = manifest.info
    if "revision" in info:
        return _snapshot(info)
    uri = str(info["uri"])
    files = [File.model_validate(file) for file in info["files"]]
    remedy = "run the stage 'resolve' again"
    # A source of one file is that file; its recorded path is its name.
    single = len(files) == 1 and uri.rsplit("/", 1)[-1] == files[0].path
    if "://" not in uri:
        path = Path(uri)
        verify(path.parent if single else path, files, remedy)
        return path
    folder = cache / "sources" / manifest.key
    with locked(folder.with_name(f"{manifest.key}.lock")):
        try:
            verify(folder, files, remedy)
        except UserError:
            shutil.rmtree(folder, ignore_errors=True)
            store, name = split(uri)
            for file in files:
                store.download(name if single else f"{name}/{file.path}", folder / file.path)
            verify(folder, files, remedy)
    return folder / files[0].path if single else folder


def _snapshot(info: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    kind, name, revision = str(info["kind"]), str(info["uri"]), str(info["revision"])
    pickles = [f"*{suffix}" for suffix in sorted(PICKLES)]
    try:
        return Path(snapshot_download(name, revision=revision, repo_type=kind, ignore_patterns=pickles))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            f"{kind} '{name}' at {revision[:12]}: no longer on the hub, or not for this token;"
            " run the stage 'resolve' again"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        if no_space(error):
            raise
        message = f"{kind} '{name}' at {revision[:12]}: {' '.join(str(error).split())}"
        raise TransientError(f"{message}; check the network and HF_ENDPOINT, and try again") from error
