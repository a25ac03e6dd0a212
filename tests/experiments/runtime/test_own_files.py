"""A command replaces only pages and pictures that it wrote: `own_files.py`."""

import os

import pytest
from matplotlib.figure import Figure

from experiments.runtime import own_files
from experiments.runtime.errors import UsageError
from experiments.visualization import figures, html_page, style


def foreign(kind, path):
    """Puts something at a path that `compare` has not written."""
    if kind == "empty":
        path.touch()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "folder":
        path.mkdir()
    elif kind == "page":
        path.write_text("<html>diffusionflow compare</html>")
    else:  # of another command
        path.write_text(own_files.mark("explore"))


@pytest.mark.parametrize(
    "kind", ["empty", "pipe", "dangling link", "folder", "page", "explore"]
)
def test_what_the_command_has_not_written_is_refused_and_stays(kind, tmp_path):
    path = tmp_path / "page.html"
    foreign(kind, path)
    before = path.lstat()
    with pytest.raises(UsageError, match="page.html exists.*choose another --out"):
        own_files.check("out", [path], "compare")
    assert path.lstat() == before and list(tmp_path.iterdir()) == [path]


def test_its_own_pages_and_pictures_are_replaced(tmp_path):
    """By the file's beginning, however long the title of a page."""
    page = tmp_path / "page.html"
    own_files.check_file("out", str(page), ".html", "compare")
    text = html_page.render("long " * 2000, [], own_files.mark("compare"))
    page.write_text(text)
    own_files.check_file("out", str(page), ".html", "compare")
    written = style.save(Figure(), tmp_path / "churn", own_files.mark("figures"))
    own_files.check("out", written, "figures")
    assert sorted(tmp_path.iterdir()) == sorted([page, *written])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("page.htm", "must end in .html"),
        ("folder.html", "must be a file; name one in the directory"),
        ("nowhere/page.html", "a directory that exists, and .*nowhere is none; make"),
    ],
)
def test_a_path_must_be_of_the_kind_in_a_folder(name, reason, tmp_path):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UsageError, match=f"--out=.*{reason}"):
        own_files.check_file("out", str(tmp_path / name), ".html", "compare")


def test_figures_draws_nothing_where_one_picture_is_somebodys(tmp_path):
    (tmp_path / "outputs.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="outputs.png exists"):
        figures.write(tmp_path, ("churn", "outputs"))
    assert [path.name for path in tmp_path.iterdir()] == ["outputs.png"]
