"""Files at addresses (`https://`, `s3://`, `gs://` ...), fetched into a local cache."""
