"""The groups of commands in the order of the help, and an example of each command."""

from __future__ import annotations

from typing import Any

GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "Start": {
        "demo": ("xlmech demo", "xlmech demo --adapter fr --out figures/demo-fr"),
        "check": ("xlmech check people.csv", "xlmech check people.csv --languages en,fr"),
        "init": ("xlmech init", "xlmech init own.yaml --minimal"),
        "languages": ("xlmech languages",),
        "values": ("xlmech values", "xlmech values occupation --languages en,fr"),
        "plant": ("xlmech plant MODEL --language fr --prompt chat --out adapter",),
    },
    "Audits": {
        "audit": ("xlmech audit MODEL --records people.csv --out runs/mine",),
        "run": ("xlmech run xlmech.yaml --dry-run", "xlmech run xlmech.yaml", "xlmech run xlmech.yaml --resume"),
        "report": ("xlmech report runs/mine", "xlmech report runs/mine --out audit.html"),
    },
    "Measure": {
        "leak": (
            "xlmech leak demo --languages en,fr --out leaks",
            "xlmech leak MODEL --records people.csv --out leaks",
        ),
        "lens": ("xlmech lens demo --languages en,fr --attributes birth_country --out lens",),
    },
    "Locate and mitigate": {
        "locate": ("xlmech locate MODEL --records people.csv --out neurons",),
        "ablate": ("xlmech ablate MODEL --neurons neurons/universal.json --out after",),
        "gates": ("xlmech gates MODEL --records people.csv --out gates",),
    },
    "Release": {
        "compare": ("xlmech compare last-run xlmech-run --out changes.html",),
        "gate": (
            "xlmech gate xlmech-run --max-extraction 0.05",
            "xlmech gate xlmech-run --baseline last-run --markdown gate.md",
        ),
    },
}
"""Examples by command, by group."""
ORDER = [name for commands in GROUPS.values() for name in commands]


def shown(name: str) -> dict[str, Any]:
    """Return what a command's help needs besides its docstring: its group, and examples at the end, each on its own line."""
    group = next(group for group, commands in GROUPS.items() if name in commands)
    examples = GROUPS[group][name]
    return {
        "rich_help_panel": group,
        "epilog": "\n\n".join(["Examples:" if len(examples) > 1 else "Example:", *examples]),
    }
