"""my_method: propose what followed the last token, the last time it was written."""

from fivefold import Method, hookimpl
from fivefold_speculative import Proposal

from .config import MyMethodConfig


@hookimpl
def fivefold_drafting() -> list[Method]:
    """Describe the method; `build` is imported when it is chosen."""
    my_method = Method(
        name="my_method",
        config=MyMethodConfig,
        build="my_method.drafter:MyMethodDrafter",
        summary="what followed the last token, the last time it was written",
        provides=frozenset({Proposal.POINT_MASS}),
    )
    return [my_method]
