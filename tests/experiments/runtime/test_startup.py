"""What a command imports: `runtime/startup.py`."""

import gc

import pytest

from experiments.runtime import startup


@pytest.fixture
def thawed():
    """Collections of this process see all objects again."""
    yield
    gc.unfreeze()


def is_searched(one):
    return any(found is one for found in gc.get_objects())


def test_what_is_imported_is_left_out_of_collections(thawed):
    with startup.importing():
        assert not gc.isenabled()
        imported = [[]]
        assert is_searched(imported)
    assert gc.isenabled() and not is_searched(imported)
    later = [[]]
    assert is_searched(later)


def test_collections_go_on_after_an_error(thawed):
    imported = [[]]
    with pytest.raises(ImportError), startup.importing():
        raise ImportError
    assert gc.isenabled() and is_searched(imported)
