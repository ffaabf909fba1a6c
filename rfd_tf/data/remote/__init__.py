"""Files at addresses (`https://`, `s3://`, `gs://` ...), fetched into a local cache."""

from rfd_tf.lazy import attach

_NAMES = {"Cache": "cache"}

__getattr__, __dir__, __all__ = attach(__name__, (), _NAMES)
