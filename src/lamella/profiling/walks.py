"""Walks of the dense network, one per chunk of samples, kept while they fit into so many bytes.

    walks = Walks(program, memory=1_000_000_000)
    branch = walks.branch(chunk, names)                  # what all levels of a target share on this chunk
    walks.holds(chunk)                                   # whether asking again costs nothing

Targets come in network order, so a kept walk goes on where the last target left it; a walk that was not kept starts anew.
"""

from collections.abc import Iterable

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..replay import Branch, Program, State
from .samples import Chunk


class Walks:
    """The dense network on its way, per chunk."""

    def __init__(self, program: Program, memory: int) -> None:
        self.program, self.memory = program, memory
        self._names: frozenset[str] = frozenset()
        self._states: dict[int, tuple[State, int]] = {}
        self._branches: dict[int, tuple[Branch, int]] = {}
        self._bytes = 0

    def branch(self, chunk: Chunk, names: frozenset[str]) -> Branch:
        """What the variants that change these parameters share on this chunk."""
        if names != self._names:
            self._names = names
            self._bytes -= sum(size for _, size in self._branches.values())
            self._branches.clear()
        if chunk.number in self._branches:
            return self._branches[chunk.number][0]
        state = self._state(chunk, self.program.first(names))
        branch = self.program.branch(state, names)
        self._keep(chunk.number, state, branch)
        return branch

    def holds(self, chunk: Chunk) -> bool:
        """Whether the chunk's last branch is kept."""
        return chunk.number in self._branches

    def forget(self) -> None:
        """Let go of everything: the samples are about to be cut otherwise."""
        self._states.clear()
        self._branches.clear()
        self._bytes = 0

    def _state(self, chunk: Chunk, position: int) -> State:
        """The chunk's walk, at or before this position."""
        state, size = self._states.pop(chunk.number, (None, 0))
        self._bytes -= size
        if state is None or state.position > position:
            return self.program.start(chunk.inputs)
        return state

    def _keep(self, number: int, state: State, branch: Branch) -> None:
        own, beside = _sizes(state, branch)
        if self._bytes + own > self.memory:
            return
        if self._bytes + own + beside <= self.memory:
            self.program.step(state, branch)  # nobody asks for this branch again
            own, beside = _sizes(state, branch)
            self._branches[number] = branch, beside
            self._bytes += beside
        self._states[number] = state, own
        self._bytes += own


def _sizes(state: State, branch: Branch) -> tuple[int, int]:
    """Bytes of a walk, and what its branch holds beyond that."""
    beside = (value for index, value in branch.values.items() if index not in state.values)
    return size_of(state.values.values()), size_of(beside)


def size_of(values: Iterable[object]) -> int:
    """Bytes of the tensors among these."""
    return sum(v.nbytes for v in tree_leaves(list(values)) if isinstance(v, Tensor))


__all__ = ["Walks", "size_of"]
