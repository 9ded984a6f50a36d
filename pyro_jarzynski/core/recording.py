"""A record of the operations that lead from inputs to a function's results.

The function is run once, and every operation of torch on tensors that depend on the
inputs becomes a node of a graph, those of vmap and of autograd included. What does not
depend on them, data, parameters and all that is computed from these alone, is a constant:
an input of the graph. Recording costs little more than a run, so it is done anew in every
run of a sampler, and no constant is ever stale; equal programs have equal texts.

Where the function asks for a truth value that depends on the inputs, as the validation of
distributions does, the graph returns also whether it is the same as in the record.
"""

from collections.abc import Callable, Iterator, Sequence
from operator import getitem
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode_stack,
)

aten = torch.ops.aten


class UnrecordableError(Exception):
    """A function does something that a record of operations cannot repeat."""


class Name(str):
    """The name of a tensor in a record."""

    __slots__ = ()


class Step(NamedTuple):
    """One operation: what it gives, and what it takes, by names."""

    result: Name
    function: Any
    args: tuple
    kwargs: dict[str, Any]


class Record:
    """The operations that lead from inputs to results.

    Args:
        function: Function from the inputs to a sequence of tensors.
        *inputs: Where to run it: walkers, `(n, D)`, and whatever else will change.

    Attributes:
        results: What the function returned.
        constants: Inputs of the graph beside these.
        text: The operations with the kinds of all inputs: equal for equal graphs.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> None:
        """Run the function."""
        recorder = _Recorder(inputs)
        with recorder:
            self.results = tuple(function(*inputs))
        self._outputs = [recorder.named(result) for result in self.results]
        if recorder.truths:
            self._outputs.append(recorder.all_hold())
        self.constants = tuple(recorder.constants)
        self._steps, self._inputs = recorder.steps, recorder.inputs
        given = (*inputs, *self.constants)
        kinds = [(tuple(x.shape), x.stride(), x.dtype, x.device) for x in given]
        self.text = "\n".join(map(str, [*self._steps, self._outputs, kinds]))

    def graph(self) -> GraphModule:
        """Return the graph, a function of inputs and constants."""
        graph, nodes = Graph(), dict[str, Node]()
        constants = map(_constant, range(len(self.constants)))
        for name in (*self._inputs, *constants):
            nodes[name] = graph.placeholder(name)

        def node(x: Any) -> Any:
            return nodes[x] if isinstance(x, Name) else x

        for result, function, args, kwargs in self._steps:
            named = {key: _mapped(node, x) for key, x in kwargs.items()}
            nodes[result] = graph.call_function(function, _mapped(node, args), named)
        graph.output(_mapped(node, self._outputs))
        return GraphModule({}, graph)


def is_recording() -> bool:
    """Return whether operations are being recorded, in this thread."""
    return any(isinstance(mode, _Recorder) for mode in _get_current_dispatch_mode_stack())


class _Recorder(TorchDispatchMode):
    """Sees all operations while it is active."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.inputs = [Name(f"input_{k}") for k in range(len(inputs))]
        self.steps: list[Step] = []
        self.constants: list[Tensor] = []
        self.names = dict(zip(map(id, inputs), self.inputs, strict=True))
        # A tensor that is gone could leave its id to another.
        self.kept: list[Any] = list(inputs)
        self.dependent = set(self.names)
        self.truths: list[Name] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation, and write it down if it depends on the inputs."""
        kwargs = kwargs or {}
        given = [x for x in _leaves((args, *kwargs.values())) if isinstance(x, Tensor)]
        depends = any(id(x) in self.dependent for x in given)
        if func._schema.is_mutable:
            self._check_mutation(func, args, kwargs, depends=depends)
        found = func(*args, **kwargs)
        if not depends:
            return found
        if func is aten._local_scalar_dense.default and isinstance(found, bool):
            self._assume(given[0], truth=found)
        else:
            named = {key: _mapped(self.named, x) for key, x in kwargs.items()}
            self._follow(found, self._write(func, _mapped(self.named, args), named))
        return found

    def all_hold(self) -> Name:
        """Return the name of whether all truth values are those of the record."""
        whole, *rest = self.truths
        for truth in rest:
            whole = self._write(aten.logical_and.default, (whole, truth), {})
        return whole

    def named(self, x: Any) -> Any:
        """Return the name of a tensor, and anything else as it is."""
        if not isinstance(x, Tensor):
            return x
        if id(x) not in self.names:
            self.names[id(x)] = _constant(len(self.constants))
            self.kept.append(x)
            self.constants.append(x.detach())
        return self.names[id(x)]

    def _write(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Name:
        result = Name(f"step_{len(self.steps)}")
        self.steps.append(Step(result, func, args, kwargs))
        return result

    def _assume(self, values: Tensor, *, truth: bool) -> None:
        """Take a truth value for a condition under which the record is right."""
        condition = self.names[id(values)]
        if not truth:
            condition = self._write(aten.logical_not.default, (condition,), {})
        self.truths.append(condition)

    def _follow(self, found: Any, name: Name) -> None:
        """Remember which step gave which tensor."""
        if isinstance(found, Tensor):
            self.names[id(found)] = name
            self.dependent.add(id(found))
            self.kept.append(found)
        elif isinstance(found, tuple | list):
            for index, part in enumerate(found):
                self._follow(part, self._write(getitem, (name, index), {}))
        elif found is not None:
            raise UnrecordableError("it takes Python numbers of tensors that vary")

    def _check_mutation(
        self, func: Any, args: tuple, kwargs: dict[str, Any], *, depends: bool
    ) -> None:
        """Raise if an operation writes into a constant."""
        slots = func._schema.arguments
        given = kwargs | dict(zip((slot.name for slot in slots), args, strict=False))
        written = [given.get(slot.name) for slot in slots if slot.is_write]
        for x in _leaves(written):
            if not isinstance(x, Tensor) or id(x) in self.dependent:
                continue
            if depends or _place(x) in map(_place, self.constants):
                raise UnrecordableError("it writes into a tensor in place")


def _constant(number: int) -> Name:
    return Name(f"constant_{number}")


def _leaves(tree: Any) -> Iterator[Any]:
    """Yield what is in lists and tuples: arguments of operations hold nothing else."""
    if isinstance(tree, tuple | list):
        for item in tree:
            yield from _leaves(item)
    else:
        yield tree


def _mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply a function to what is in lists and tuples."""
    if isinstance(tree, tuple | list):
        return type(tree)(_mapped(function, item) for item in tree)
    return function(tree)


def _place(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()
