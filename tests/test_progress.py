"""Progress bars where somebody looks: a terminal or a notebook."""

import io
import sys
import types

import pytest

from rfd_tf import progress


@pytest.fixture
def notebook(monkeypatch):
    """Makes this process look like a Jupyter kernel without widgets."""
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)


def drawn(**options):
    file = io.StringIO()
    with progress.tqdm(total=2, file=file, mininterval=0, **options) as bar:
        bar.update(2)
    return file.getvalue()


def test_a_log_file_gets_no_bar():
    assert not progress.in_notebook()
    assert drawn(disable=None) == ""
    assert "2/2" in drawn(disable=False)


def test_a_notebook_gets_one(notebook):
    assert progress.in_notebook()
    assert "2/2" in drawn(disable=None)
    assert drawn(disable=True) == ""


def test_a_terminal_session_of_ipython_is_no_notebook(monkeypatch):
    shell = types.SimpleNamespace(config={"TerminalIPythonApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert not progress.in_notebook()
