"""One MLIR context for many programs: making one is a third of the tests' time.

JAX makes a context, with all dialects loaded, for every program that it lowers: 8 to 14
ms each, for thousands of programs of a few operations. What a program means does not
depend on it.
"""

from jax._src.interpreters import mlir

PROGRAMS = 200  # that share a context, which keeps their constants as long


def share_contexts():
    """Has JAX lower `PROGRAMS` programs in each context, where that can be set."""
    make = getattr(mlir, "make_ir_context", None)
    if make is None:  # another version of JAX: slower, the same
        return
    state = {"made": None, "used": PROGRAMS}

    def shared():
        if is_active(state["made"]):  # a program compiled while another is lowered
            return make()
        if state["used"] >= PROGRAMS:
            state.update(made=make(), used=0)
        state["used"] += 1
        return state["made"]

    mlir.make_ir_context = shared


def is_active(context):
    """Whether a program is being lowered in `context`, whose place would be taken."""
    try:
        return context is not None and mlir.ir.Context.current == context
    except ValueError:  # there is none
        return False
