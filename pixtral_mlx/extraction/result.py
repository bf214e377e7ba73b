"""What `extract` gives: the data of a document and its fields."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from .documents import Page
from .fields import Field
from .review import review_page, write_page


@dataclass(frozen=True, eq=False)
class Extraction:
    """What `extract` gives.

    Arguments:
        data: valid under the schema.
        fields: {JSON pointer: Field}, in the order of the data.
        reasons: why a person should look at the document as a whole: rules that do not hold.
        pages: those that were read, in order.
        one_by_one: whether questions made the data, and no JSON that the model wrote.
        source: how the document is called.
        seconds: what the first pass took, and what the second one did.
        schema: that was asked for.
    """

    data: Any
    fields: Mapping[str, Field]
    reasons: tuple[str, ...]
    pages: tuple[Page, ...]
    one_by_one: bool = False
    source: str = ""
    seconds: tuple[float, float] = (0.0, 0.0)
    schema: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def needs_review(self) -> bool:
        """Whether a person should look at it."""
        return bool(self.reasons) or any(each.needs_review for each in self.fields.values())

    def row(self) -> dict[str, Any]:
        """{"source", "data", "fields", "needs_review", "reasons", "pages"}, as JSON has them."""
        return {
            "source": self.source,
            "data": self.data,
            "fields": {pointer: each.row() for pointer, each in self.fields.items()},
            "needs_review": self.needs_review,
            "reasons": [*self.reasons],
            "pages": [each.row() for each in self.pages],
            "one_by_one": self.one_by_one,
        }

    def to_html(
        self, path: "str | PathLike[str] | None" = None, *, source: str | None = None
    ) -> str:  # fmt: skip
        """One page that refers to no other host, on which a person checks the document: its pages
        with the boxes on the left, the fields on the right, and what was decided as a file.

        Arguments:
            path: a new file that takes it too.
            source: what to call the document; None: as in its row.

        Raises:
            ImageError: there is such a file, or it cannot be written.
        """
        row = self.row()
        text = review_page(row if source is None else {**row, "source": source}, self.pages)
        if path is not None:
            write_page(text, path)
        return text
