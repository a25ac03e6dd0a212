"""The code of `docs/extending.md` runs, and its own classes keep their protocols."""

import pathlib
import re

import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.mark.ci
def test_the_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(code.splitlines()) <= 100
    assert not re.search(r"\b_[a-z]|hasattr|_src", code)  # nothing private
    exec(compile(code, str(PAGE), "exec"), {"__name__": "extending"})
    assert capsys.readouterr().out.strip() == "20"
