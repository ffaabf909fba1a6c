"""The commands of the package: one module each, and the flags that several share."""
