"""`python -m rfd_tf COMMAND` is `rfd-tf COMMAND`."""

from rfd_tf.cli import main

if __name__ == "__main__":
    main()
