"""Where results lie: a folder or an S3 prefix behind one small interface."""

from compose_rl.store.base import Entry, NotFound, Store
from compose_rl.store.uri import join, open_store, split

__all__ = ["Entry", "NotFound", "Store", "join", "open_store", "split"]
