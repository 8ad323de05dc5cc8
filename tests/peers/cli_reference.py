"""What docs/reference says of commands, as values that tests compare with what commands do."""

import json
import re
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"


def section(page: str, title: str) -> str:
    """What stands under a heading of a page of the reference."""
    parts = re.split(r"^## (.*)$", (REFERENCE / page).read_text("utf-8"), flags=re.MULTILINE)
    assert title in parts, f"docs/reference/{page} has no section {title}"
    return parts[parts.index(title) + 1]


def documented(title: str) -> dict[str, Any]:
    """The example of a section of docs/reference/json.md."""
    return dict(json.loads(section("json.md", title).split("```json")[1].split("```")[0]))


def assert_shape(answer: object, example: object, where: str = "") -> None:
    """The same members as in the example, recursively; `null` on either side stands for anything."""
    if answer is None or example is None:
        return
    if isinstance(example, dict):
        assert isinstance(answer, dict), where
        assert set(answer) == set(example), where
        for name in example:
            assert_shape(answer[name], example[name], f"{where}.{name}")
    elif isinstance(example, list):
        assert isinstance(answer, list), where
        for item in answer if example else ():
            assert_shape(item, example[0], f"{where}[]")
    elif isinstance(example, bool) or isinstance(answer, bool):
        assert type(answer) is type(example), where
    else:
        numbers = (int, float)
        assert isinstance(answer, numbers if isinstance(example, numbers) else type(example)), where
