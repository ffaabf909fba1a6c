"""A run as one HTML file that a person opens: what was trained, how it went, what it sees.

`write` makes the file from the sections in `SECTIONS`; each section is a file of this package.
"""

from rfd_tf.interpret.report.assemble import SECTIONS, build, render, write
from rfd_tf.interpret.report.images import ReportImages
from rfd_tf.interpret.report.run_record import RunRecord, read_run

__all__ = ["SECTIONS", "ReportImages", "RunRecord", "build", "read_run", "render", "write"]
