"""Claims the name of a built-in pruner."""

from core import TokenPruner, hookimpl


class Copycat(TokenPruner):
    def forward(self, tokens, guide, cues):
        return tokens


@hookimpl
def register(add):
    add("tpd", Copycat)
