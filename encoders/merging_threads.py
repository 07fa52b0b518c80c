"""Compiled kernels on several threads, which share the work unit by unit.

A stage of merging takes about a millisecond: too short for threads that must be woken, or wait for Python's
lock. PyTorch's own threads are awake, because they spin for some milliseconds after each operation, and would
keep their processors from any other thread; so they do the work where there is PyTorch. Without it, each
stage starts threads of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir  # type: ignore[import-untyped]  # llvmlite ships no stubs
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[Any]


class Team(NamedTuple):
    """How many threads share the work, and who starts them.

    fork: address of a C function that is called as OpenMP's GOMP_parallel (function, its argument, number of
    threads, 0), calls the function on so many threads, and waits for them; 0 for threads of our own.
    """

    threads: int
    fork: int = 0


_UNITS_PER_THREAD = 6  # more are more evenly spread, and more to hand out
_WORTH_STARTING = 1 << 17  # fewer distances than that, or bytes, are not worth starting a thread for
_WORTH_SHARING = 1 << 14  # nor that many worth handing some of to a thread that is there


_INT32, _INT64, _POINTER = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()
_WORKER = ir.FunctionType(_POINTER, [_POINTER])  # what all threads run, on the work they share
_NEXT, _UNITS, _FAILED, _ARGUMENTS = range(4)  # the fields of that work


def _share_code(context: Any, kernel: Any, team: Any, units: Any, arguments: Any) -> Any:
    """Call kernel(unit, *arguments) for each unit from 0 on, on the threads of a team.

    Returns whether all went well; what does not is memory that cannot be had.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        threads, fork = cgutils.unpack_tuple(builder, values[1])
        count, packed = values[2], _borrowed(context, builder, signature.args[3], values[3])
        fields = ir.LiteralStructType([_INT64, _INT64, _INT64, packed.type])
        shared = cgutils.alloca_once(builder, fields)
        for field, value in enumerate((_INT64(0), count, _INT64(0), packed)):
            builder.store(value, cgutils.gep_inbounds(builder, shared, 0, field))
        worker = _worker(context, builder, signature.args[0].dispatcher, signature.args[3], fields)
        data = builder.bitcast(shared, _POINTER)
        is_alone = builder.icmp_signed("<=", threads, _INT64(1))
        with builder.if_else(is_alone) as (alone, together):
            with alone:
                builder.call(worker, [data])
            with together, builder.if_else(builder.icmp_signed("==", fork, _INT64(0))) as (own, given):
                with own:
                    _start_and_join(builder, worker, data, threads)
                with given:
                    start = ir.FunctionType(ir.VoidType(), [_WORKER.as_pointer(), _POINTER, _INT32, _INT32])
                    function = builder.inttoptr(fork, start.as_pointer())
                    builder.call(function, [worker, data, builder.trunc(threads, _INT32), _INT32(0)])
        failed = builder.load(cgutils.gep_inbounds(builder, shared, 0, _FAILED))
        return builder.icmp_signed("==", failed, _INT64(0))

    return types.boolean(kernel, team, units, arguments), generate


share: Any = intrinsic(_share_code)


def _borrowed(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Arrays without their owner, in whatever tuples: their caller keeps them.

    Threads would wait for each other to count references, of which every row of an array is one.
    """
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        return array._getvalue()
    members = getattr(kind, "types", None) if isinstance(kind, types.BaseTuple) else None
    if members is not None:
        parts = zip(members, cgutils.unpack_tuple(builder, value), strict=True)
        return context.make_tuple(builder, kind, [_borrowed(context, builder, *part) for part in parts])
    return value


def _worker(context: Any, builder: Any, kernel: Any, arguments: Any, fields: Any) -> Any:
    """The function that every thread runs: it takes units until none is left."""

    def call(unit: int, packed: Any) -> None:
        kernel(unit, *packed)

    signature = types.void(types.int64, arguments)
    compiled = context.compile_subroutine(builder, call, signature)
    function = ir.Function(builder.module, _WORKER, builder.module.get_unique_name("worker"))
    function.linkage = "internal"
    inside = ir.IRBuilder(function.append_basic_block("start"))
    shared = inside.bitcast(function.args[0], fields.as_pointer())

    def field(number: int) -> Any:
        return cgutils.gep_inbounds(inside, shared, 0, number)

    units, packed = inside.load(field(_UNITS)), inside.load(field(_ARGUMENTS))
    take, work, end = (function.append_basic_block(name) for name in ("take", "work", "end"))
    inside.branch(take)
    inside.position_at_end(take)
    unit = inside.atomic_rmw("add", field(_NEXT), _INT64(1), "seq_cst")
    inside.cbranch(inside.icmp_signed("<", unit, units), work, end)
    inside.position_at_end(work)
    status, _ = context.call_internal_no_propagate(inside, compiled.fndesc, signature, [unit, packed])
    inside.atomic_rmw("or", field(_FAILED), inside.zext(status.is_error, _INT64), "seq_cst")
    inside.branch(take)
    inside.position_at_end(end)
    inside.ret(_POINTER(None))
    return function


def _start_and_join(builder: Any, worker: Any, data: Any, threads: Any) -> None:
    """Run the worker here and on all but one of so many new threads; fewer where the system gives fewer."""

    def declared(name: str, *arguments: Any) -> Any:
        return cgutils.get_or_insert_function(builder.module, ir.FunctionType(_INT32, arguments), name)

    create = declared("pthread_create", _INT64.as_pointer(), _POINTER, _WORKER.as_pointer(), _POINTER)
    join = declared("pthread_join", _INT64, _POINTER.as_pointer())
    handles = builder.alloca(_INT64, threads)
    started = cgutils.alloca_once_value(builder, _INT64(0))
    with cgutils.for_range(builder, builder.sub(threads, _INT64(1))):
        number = builder.load(started)
        error = builder.call(create, [builder.gep(handles, [number]), _POINTER(None), worker, data])
        is_there = builder.icmp_signed("==", error, _INT32(0))
        builder.store(builder.add(number, builder.zext(is_there, _INT64)), started)
    builder.call(worker, [data])
    with cgutils.for_range(builder, builder.load(started)) as loop:
        handle = builder.load(builder.gep(handles, [loop.index]))
        builder.call(join, [handle, _POINTER.as_pointer()(None)])


def compiled(fastmath: set[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a kernel, keeping the result on disk where some folder can be written to."""

    def compile_one(kernel: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(cache=True, nogil=True, fastmath=fastmath)(kernel)
        except RuntimeError:  # numba's word for "no place for a cache": every process compiles for itself
            return njit(nogil=True, fastmath=fastmath)(kernel)

    return compile_one


@compiled(set())
def part_of(unit: int, rows_per_unit: int, num_rows: int) -> Any:
    """The image that a unit belongs to, the first of its rows, and the row after the last."""
    units = (num_rows + rows_per_unit - 1) // rows_per_unit
    start = (unit % units) * rows_per_unit
    return unit // units, start, min(start + rows_per_unit, num_rows)


class Work(NamedTuple):
    """How the rows of all images are shared: by which threads, in how many units, of so many rows each."""

    team: Team
    units: int
    rows_per_unit: int


def divide(team: Team, batch: int, rows: int, columns: int) -> Work:
    """Work on some rows of each image, each of which is some columns long."""
    worth = _WORTH_SHARING if team.fork else _WORTH_STARTING
    units = min(batch * rows * columns // worth, _UNITS_PER_THREAD * team.threads)
    threads = max(1, min(team.threads, units))
    rows_per_unit = max(1, rows) if threads == 1 else 4 * -(-rows // (4 * -(-units // batch)))
    return Work(Team(threads, team.fork), batch * -(-rows // rows_per_unit), rows_per_unit)


def run(kernel: Callable[..., bool], work: Work, *arguments: Any) -> None:
    """Call a kernel for all units of some work. Raises MemoryError."""
    # A plain tuple: numba takes a hundred times as long to recognise one that has names.
    if not kernel(tuple(work.team), *work[1:], *arguments):
        raise MemoryError("merging needs more memory than there is")
