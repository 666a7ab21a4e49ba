"""A task with everything that was chosen for it."""

from dataclasses import dataclass
from typing import Any

from .description import Method, Task
from .errors import UserError


@dataclass
class Composition:
    """A task with everything that was chosen for it, as dataclasses."""

    task: Task
    config: Any
    """The task's own settings."""
    nodes: dict[str, Any]
    """The shared nodes."""
    methods: dict[str, Method]
    """The chosen method of each hook."""
    settings: dict[str, Any]
    """The chosen method's settings, by hook."""
    debug: bool = False
    """Whether errors are shown with their traceback."""

    def value(self, key: str) -> object:
        """Return the value at a dotted key.

        Raises:
            LookupError: when there is no such key.
        """
        first, _, rest = key.partition(".")
        if not rest and first in self.methods:
            return self.methods[first].name
        if not rest and first in self.nodes:
            return self._name_of_node(first)
        found = {**self.nodes, **self.settings}.get(first)
        path = rest if found is not None else key
        for part in filter(None, path.split(".")):
            owner = self.config if found is None else found
            if not hasattr(owner, part):
                raise LookupError(key)
            found = getattr(owner, part)
        return found

    def _name_of_node(self, node: str) -> object:
        """Return what `node=X` sets: the field that holds a node's free name."""
        free = next(group.free for group in self.task.groups if group.node == node)
        if free is None:
            raise LookupError(node)
        return getattr(self.nodes[node], free)

    def located(self, error: UserError) -> UserError:
        """Return an error with the value of its setting filled in from what was composed."""
        if error.has_value or not error.setting:
            return error
        try:
            return error.located(error.setting, self.value(error.setting))
        except LookupError:
            return error
