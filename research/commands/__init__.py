"""Commands that only developers run: one a file, as in `rfd_tf/cli`."""
