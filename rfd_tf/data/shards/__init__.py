"""Images read from shards: WebDataset tar files, TFRecord files, Parquet; and shards written."""

from rfd_tf.lazy import attach

_NAMES = {
    "ShardSource": "source",
    "looks_like_shards": "paths",
    "shard_source": "source",
    "write_shards": "write",
}

__getattr__, __dir__, __all__ = attach(__name__, (), _NAMES)
