"""Commands, files and parts that the documents name: they exist and are accepted."""

import pathlib
import re
import shlex
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.__main__ import COMMANDS
from experiments.config import build, experiment, overrides, registry, schema
from experiments.evaluation import features
from experiments.runtime import distributed
from tests.helpers.parametrize import check_all

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
DEFINED = re.compile(
    r"(?:DEFINE_\w+|define_(?:count|number|file|output))\(\s*\"([\w.]+)\""
)


def commands():
    """`{page and number: words}` of every command `diffusionflow` in a block."""
    found = {}
    for page in PAGES:
        blocks = re.findall(r"```(?:sh|yaml)\n(.*?)```", page.read_text(), re.S)
        text = "\n".join(blocks).replace("\\\n", " ")
        lines = [line for line in text.splitlines() if "diffusionflow " in line]
        for number, line in enumerate(lines):
            words = shlex.split(line, comments=True)
            if "diffusionflow" in words and "clone" not in words:
                start = words.index("diffusionflow")
                found[f"{page.name} {number}"] = (words[start + 1 :],)
    return found


def flags_of(command):
    """The flags that an entry point defines, and those that all have."""
    names = {"require_backend", "compilation_cache", "help"}
    text = (ROOT / "experiments" / f"{command}.py").read_text()
    if "define_config(" in text:
        names.add("print_config")
    if "define_config()" in text:
        names.add("config")
    if "define_accept_change()" in text:
        names.add("accept_change")
    if "distributed.define_flags()" in text:
        text += (ROOT / "experiments" / "runtime" / "distributed.py").read_text()
        names.update(distributed.NAMES)
    for module in ("sampling/edit_options", "evaluation/fid_flags"):
        if f"{module.rpartition('/')[2]}.define_flags()" in text:
            text += (ROOT / "experiments" / f"{module}.py").read_text()
    return names | set(DEFINED.findall(text))


def test_commands_and_their_flags_exist():
    found = commands()
    assert len(found) > 25
    assert {words[0] for (words,) in found.values()} == {*COMMANDS}
    check_all(has_known_flags, found)


def has_known_flags(words):
    command, *arguments = words
    assert command in COMMANDS
    known = flags_of(command)
    for argument in arguments:
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0]
            assert name in known or name.startswith("config."), name


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The modules and configs of the pages, in the current directory."""
    text = (DOCS / "howto" / "from_scratch.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    for name, block in zip(("series", "wave"), blocks, strict=False):
        (tmp_path / f"{name}.py").write_text(block)
    for name, page in (("own", "own_parts"), ("mine", "train")):
        text = (DOCS / "howto" / f"{page}.md").read_text()
        blocks = re.findall(r"```python\n(.*?)```", text, re.S)
        (tmp_path / f"{name}.py").write_text("\n".join(blocks))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    names = ("own", "series")
    for name in names:
        sys.modules.pop(name, None)
    yield
    for name in names:
        sys.modules.pop(name, None)


def configured(words):
    """The config of a command."""
    rest, given = overrides.split(words)
    (file,) = [word.partition("=")[2] for word in rest if word.startswith("--config=")]
    config = overrides.load_config(file)
    schema.add_defaults(config)
    overrides.apply(config, given)
    schema.settle(config)
    return config


@pytest.mark.ci
def test_configs_of_the_commands_are_valid(own):
    """And their networks can be built, of the digits with 10 classes."""
    found = {name: each for name, each in commands().items() if each[0][0] == "train"}

    def is_valid(words):
        config = configured(words)
        experiment.from_config(config)
        build.network(config.network, 10 if config.data.name == "digits" else 0)

    check_all(is_valid, found)


@pytest.mark.ci
def test_every_part_of_ones_own_is_accepted(own):
    """The command's own network, and those of the other libraries."""
    (words,) = commands()["own_parts.md 0"]
    config = configured(words)
    dataset = build.dataset(config.data)
    assert dataset.event_shape == (16,)
    z, time = jnp.zeros((2, 16)), jnp.full(2, 0.5)
    label = jnp.zeros(2, jnp.int32)
    for name in ("own:Network", "own:NNXNetwork", "own:EquinoxNetwork(width=8)"):
        network = build.network(dict(name=name), dataset.num_classes)
        params = network.init(jax.random.key(0), z, time, label, train=False)
        assert network.apply(params, z, time, label, train=False).shape == z.shape
    labels = jnp.arange(12) % 2
    x, eps = jax.random.normal(jax.random.key(1), (2, 12, 16))
    index = build.coupling("own:Sorted(group=4)")(None, x, eps, labels).index
    assert sorted(index.tolist()) == list(range(12))
    assert (labels[index] == labels).all()
    assert (index // 4 == jnp.arange(12) // 4).all()
    spectrum = features.own("own:Spectrum(count=4)").features_fn(np.ones((3, 16)))
    np.testing.assert_allclose(spectrum, [[16.0, 0, 0, 0]] * 3, atol=1e-12)
    config.objective.kind = "own:Halfway"
    assert build.objective(config.objective).kind.plane(0.5, schedule=None)


def test_files_of_the_page_of_data_are_read(tmp_path, monkeypatch):
    """Those that its blocks write, with the arguments of its commands."""
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "howto" / "data.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    exec("\n".join(blocks), {})
    found = {}
    for name, (words,) in commands().items():
        if name.startswith("data.md") and words[0] == "train":
            section = configured(words).data
            if section.name != "folder":
                found[section.path] = build.dataset(section)
    assert {*found} == {path.name for path in tmp_path.glob("*.npz")}
    assert found["shapes.npz"].num_classes == 2
    assert found["words.npz"].class_names == ("circle", "square")
    assert found["latents.npz"].event_shape == (8, 8, 4)


def test_names_of_shipped_configs_are_in_the_page_and_there():
    text = (DOCS / "howto" / "train.md").read_text()
    (table,) = re.findall(r"\n## Shipped configs\n(.*?)\n## ", text, re.S)
    rows = re.findall(r"^\| (`.+?) \|", table, re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {path.stem for path in (ROOT / "configs").glob("*.py")}


def test_sources_of_data_are_in_the_page():
    text = (DOCS / "howto" / "data.md").read_text()
    rows = re.findall(r"^\| (`.+?) \|", text, re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named - {"name"} == {*registry.DATASETS}


def test_the_page_of_the_config_has_all_names_and_entries():
    text = (DOCS / "config.md").read_text()
    named = set(re.findall(r"{config-names} (\w+)", text))
    tables = {
        name
        for name, value in vars(registry).items()
        if isinstance(value, registry.Registry)
    }
    assert named == tables and "{config-entries}" in text


def test_an_addition_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(
        r"`((?:diffusionflow|experiments|tests|docs|configs)/[\w./]+)`", text
    )
    there = [path for path in paths if "NAME" not in path and "ROOM" not in path]
    assert len(there) > 20
    assert not [path for path in there if not (ROOT / path).exists()]
