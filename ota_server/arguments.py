"""What all commands do with their arguments."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.python import usage


def put_options_first(arguments: Sequence[str], options: usage.Options) -> list[str]:
    """Bring options that stand behind other arguments before them, since `usage.Options` looks no further."""
    valued = {f"--{name.rstrip('=')}" for name in options.longOpt if name.endswith("=")}
    valued |= {f"-{letter}" for letter, long in options.synonyms.items() if len(letter) == 1 and f"--{long}" in valued}
    found: list[str] = []
    others: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--":
            others += left
        elif argument in valued:
            found += [argument, *[value for value in [next(left, None)] if value is not None]]
        else:
            (found if argument.startswith("-") and argument != "-" else others).append(argument)
    return [*found, "--", *others] if others else found
