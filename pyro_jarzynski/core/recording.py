"""A record of the operations that lead from inputs to a function's results.

The function is run once, and every operation of torch on tensors that depend on the
inputs becomes a node of a graph, those of vmap and of autograd included. What does not
depend on them, data, parameters and all that is computed from these alone, is a constant:
an input of the graph. Recording costs little more than a run, so it is done anew in every
run of a sampler, and no constant is ever stale; equal programs have equal texts.

Where the function asks for a truth value that depends on the inputs, as the validation of
distributions does, the graph returns also whether it is the same as in the record.
"""

from collections.abc import Callable, Sequence
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten


class UnrecordableError(Exception):
    """A function does something that a record of operations cannot repeat."""


class Record:
    """The operations that lead from inputs to results.

    Args:
        function: Function from the inputs to a sequence of tensors.
        *inputs: Where to run it: walkers, `(n, D)`, and whatever else will change.

    Attributes:
        constants: Inputs of the graph beside these.
        text: The operations with the kinds of all inputs: equal for equal graphs.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> None:
        """Run the function."""
        recorder = _Recorder(inputs)
        with recorder:
            results = function(*inputs)
        outputs = [recorder.argument(result) for result in results]
        if recorder.truths:
            outputs.append(recorder.all_hold())
        self.constants = tuple(recorder.constants)
        self._graph = recorder.graph
        self._graph.output(outputs)
        given = (*inputs, *self.constants)
        kinds = [(tuple(x.shape), x.stride(), x.dtype, x.device) for x in given]
        self.text = "\n".join([*recorder.lines, str(outputs), str(kinds)])

    def graph(self) -> GraphModule:
        """Return the graph, a function of inputs and constants."""
        return GraphModule({}, self._graph)


class _Recorder(TorchDispatchMode):
    """Sees all operations while it is active."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.graph, self.lines = Graph(), list[str]()
        self.constants: list[Tensor] = []
        places = [self.graph.placeholder(f"input_{k}") for k in range(len(inputs))]
        self.last_input = places[-1]
        self.nodes = dict(zip(map(id, inputs), places, strict=True))
        # A tensor that is gone could leave its id to another.
        self.kept: list[Any] = list(inputs)
        self.dependent = set(self.nodes)
        self.truths: list[Node] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation, and write it down if it depends on the inputs."""
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        depends = any(id(x) in self.dependent for x in given)
        if func._schema.is_mutable:
            self._check_mutation(func, args, kwargs, depends=depends)
        found = func(*args, **kwargs)
        if depends:
            arguments = tree_map(self.argument, args)
            named = tree_map(self.argument, kwargs)
            node = self.graph.call_function(func, arguments, named)
            self.lines.append(f"{node} = {func}{node.args}{node.kwargs}")
            if func is aten._local_scalar_dense.default and isinstance(found, bool):
                self._assume(node, given[0], truth=found)
            else:
                self._follow(found, node)
        return found

    def all_hold(self) -> Node:
        """Return a node that tells whether all truth values are those of the record."""
        whole, *rest = self.truths
        for truth in rest:
            whole = self.graph.call_function(aten.logical_and.default, (whole, truth))
        return whole

    def argument(self, x: Any) -> Any:
        """Return the node of a tensor, and anything else as it is."""
        if not isinstance(x, Tensor):
            return x
        if id(x) not in self.nodes:
            with self.graph.inserting_after(self.last_input):
                name = f"constant_{len(self.constants)}"
                self.last_input = self.graph.placeholder(name)
            self.nodes[id(x)] = self.last_input
            self.kept.append(x)
            self.constants.append(x.detach())
        return self.nodes[id(x)]

    def _assume(self, node: Node, values: Tensor, *, truth: bool) -> None:
        """Replace a truth value by a condition under which the graph is right."""
        self.graph.erase_node(node)
        condition = self.nodes[id(values)]
        if not truth:
            condition = self.graph.call_function(aten.logical_not.default, (condition,))
        self.lines.append(f"{condition} holds")
        self.truths.append(condition)

    def _follow(self, found: Any, node: Node) -> None:
        """Remember which node gave which tensor."""
        if isinstance(found, Tensor):
            self.nodes[id(found)] = node
            self.dependent.add(id(found))
            self.kept.append(found)
        elif isinstance(found, tuple | list):
            for index, part in enumerate(found):
                item = self.graph.call_function(getitem, (node, index))
                self._follow(part, item)
        elif found is not None:
            raise UnrecordableError("it takes Python numbers of tensors that vary")

    def _check_mutation(
        self, func: Any, args: tuple, kwargs: dict[str, Any], *, depends: bool
    ) -> None:
        """Raise if an operation writes into a constant."""
        slots = func._schema.arguments
        given = kwargs | dict(zip((slot.name for slot in slots), args, strict=False))
        written = [given.get(slot.name) for slot in slots if slot.is_write]
        for x in tree_leaves(written):
            if not isinstance(x, Tensor) or id(x) in self.dependent:
                continue
            if depends or _place(x) in map(_place, self.constants):
                raise UnrecordableError("it writes into a tensor in place")


def _place(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()
