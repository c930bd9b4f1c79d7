"""What the API reference shows beside the fields of a class: the comments that stand behind them in the code."""
from __future__ import annotations

import re
from typing import Any

import griffe


class FieldComments(griffe.Extension):
    """Adds to the docstrings of classes the comments behind their fields, as an Attributes section."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Called with every class, once its file is read."""
        fields = {name: "\n".join(field.lines) for name, field in cls.attributes.items() if field.annotation}
        comments = {name: re.search(r"  # (.+)$", code) for name, code in fields.items()}
        found = [f"    {name}: {comment[1]}" for name, comment in comments.items() if comment]
        if found and cls.docstring:
            cls.docstring.value += "\n".join(["\n\nAttributes:", *found])
