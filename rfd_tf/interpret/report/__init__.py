"""A run as one HTML file that a person opens: what was trained, how it went, what it sees.

`write` makes the file from the sections in `SECTIONS`. `blocks` holds what sections are made of,
`page.html`, `page.css` and `page.js` how it looks.
"""

from rfd_tf.interpret.report.assemble import (
    SECTIONS,
    build,
    check_output,
    check_section,
    needs_images,
    render,
    write,
)
from rfd_tf.interpret.report.images import ReportImages
from rfd_tf.interpret.report.run_record import RunRecord, read_run

__all__ = [
    "SECTIONS",
    "ReportImages",
    "RunRecord",
    "build",
    "check_output",
    "check_section",
    "needs_images",
    "read_run",
    "render",
    "write",
]
