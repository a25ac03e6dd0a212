"""Names of other libraries: what they give, and what is refused."""

import pathlib
import re

import jax
import numpy as np
import pytest

from diffusionflow import analytic, samplers, schedules
from diffusionflow.samplers import names
from diffusionflow.samplers.names_elsewhere import NOT_SHIPPED, ROWS

TABLE = schedules.Discrete.linear_betas()
DOCS = pathlib.Path(__file__).parents[2] / "docs" / "samplers.md"


def test_every_name_gives_its_row_and_a_grid_on_every_kind_of_schedule():
    taken = {}
    for row in ROWS:
        for name in row.names:
            key = names._normalized(name)
            assert taken.setdefault(key, row) is row, f"{name} is of two rows"
            found = samplers.by_name(name)
            assert found.sampler is row.sampler
            for schedule in (TABLE, schedules.FlowMatching(), schedules.VE(0.01, 50.0)):
                for suffix in ("", " Karras"):
                    grid_fn = samplers.by_name(name + suffix).grid_fn
                    for num_steps in (1, 7):
                        times = grid_fn(num_steps, schedule=schedule)
                        assert (np.diff(times) < 0).all() and times[0] <= 1


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("Euler a", "euler_ancestral"),
        ("DPM++ SDE", "sample_dpmpp_sde"),
        ("UniPC", "uni_pc"),
        ("DPM2 a", "dpm_2_ancestral"),
        ("LMS Exponential", "lms exponential"),
    ],
)
def test_one_method_in_several_spellings(name, same):
    first, second = samplers.by_name(name), samplers.by_name(same)
    assert first.sampler is second.sampler and first.grid_fn is second.grid_fn


def test_grids_of_names_count_steps_as_their_source_does():
    """Levels of the table that N network calls see, the step to the data included."""
    levels = lambda name, count: np.round(
        1000 * samplers.by_name(name).grid_fn(count, schedule=TABLE) - 1
    )
    np.testing.assert_array_equal(levels("DDIM", 4), [750, 500, 250, 0, -1])
    np.testing.assert_array_equal(levels("Euler", 4), [999, 666, 333, 0, -1])
    np.testing.assert_array_equal(levels("UniPC", 4), [999, 749, 500, 250, -1])
    karras = samplers.by_name("Heun Karras").grid_fn(5, schedule=TABLE)
    assert len(karras) == 5 and karras[0] == 1
    np.testing.assert_allclose(karras[-1], 1 / 1000, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DPM++ 2N", r"did you mean .*'DPM\+\+ 2M'"),
        ("Eular a", "did you mean 'Euler a'"),
        ("iPNDM v", "not shipped; samplers.AdamsBashforth"),
        ("DPM adaptive", "samplers.solve_dpm"),
        ("DPM++ 2M Beta", "grid 'beta'.*use_beta_sigmas"),
        ("zzz", "unknown sampler 'zzz': known: Euler, Euler a"),
    ],
)
def test_what_is_refused_says_what_is_near(name, words):
    with pytest.raises(ValueError, match=words):
        samplers.by_name(name)


def rows_of_docs():
    """The table of names: `(names, ours, grid, differences)`."""
    for row in ROWS:
        shown = ", ".join(f"`{name}`" for name in row.names)
        differences = row.differences or "none known"
        yield f"| {shown} | `{row.sampler}` | {row.grid} | {differences} |"


def rows_of_refused():
    for known, instead in NOT_SHIPPED.items():
        yield f"| {', '.join(f'`{name}`' for name in known)} | {instead} |"


def test_the_tables_of_names_in_the_docs():
    text = DOCS.read_text()
    for line in (*rows_of_docs(), *rows_of_refused()):
        assert line in text, line
    section = text[text.index("## By name") :]
    section = section[: section.index("\n## ", 3)]
    shown = re.findall(r"^\| `.*", section, re.MULTILINE)
    assert len(shown) == len(ROWS) + len(NOT_SHIPPED)


if __name__ == "__main__":
    print("\n".join(rows_of_docs()))
    print("\n".join(rows_of_refused()))


def test_the_grids_of_the_web_interfaces_on_a_table():
    """`simple_scheduler` and `ddim_scheduler` of ComfyUI, 4 of 1,000 levels."""
    table = schedules.Discrete.linear_betas()
    for name, timesteps in (
        ("Simple", [999, 749, 499, 249]),
        ("DDIM uniform", [751, 501, 251, 1]),
    ):
        grid = samplers.by_name(f"Euler {name}").grid_fn(4, schedule=table)
        np.testing.assert_allclose(grid[:-1] * 1000 - 1, timesteps, atol=1e-9)


def test_the_step_to_the_data_is_counted_on_a_schedule_that_ends_in_noise():
    schedule = schedules.EDM()
    sampler, grid_fn = samplers.by_name("Euler")
    denoise_fn = analytic.gaussian(np.zeros(1), 0.25).denoise_fn(schedule=schedule)
    z, times = np.ones((1, 1), np.float32), grid_fn(5, schedule=schedule)
    key = jax.random.key(0)
    found = samplers.sample(
        key, denoise_fn, z, times, sampler=sampler, schedule=schedule
    )
    assert found.nfe == 5
