"""An environment and its judge, taken through the same edits and the same history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import trees
from tests.support.edits import apply

if TYPE_CHECKING:
    from tests.support.edits import Edit
    from tests.support.judge import Judge
    from tests.support.sandbox import Json, Sandbox


class Story:
    """`sandbox` is up and as `judge` says; every method leaves it so, or fails."""

    def __init__(self, sandbox: Sandbox, judge: Judge, mode: str = "auto") -> None:
        self.sandbox = sandbox
        self.judge = judge
        self._mode = mode
        sandbox.up()
        self.agree()

    def agree(self) -> None:
        """Compare the merged tree with the plain directory, in full."""
        trees.assert_same(self.sandbox.merged, self.judge.plain)

    def edit(self, *edits: Edit) -> None:
        """Do the same in both."""
        apply(self.sandbox.merged, *edits)
        apply(self.judge.plain, *edits)
        self.agree()

    def checkpoint(self, message: str = "", tag: str | None = None) -> str:
        """Seal what is there and return the id."""
        rev: str = self.sandbox.checkpoint(message, tag=tag, mode=self._mode)["id"]
        self.judge.remember(rev)
        self.agree()
        return rev

    def rollback(self, rev: str, *, discard: bool = False) -> Json:
        """Go back to an id or to the base; what is saved meanwhile is remembered."""
        answer = self.sandbox.rollback(rev, discard=discard)
        if answer["saved"] is not None:
            self.judge.remember(answer["saved"])
        self.judge.restore(rev)
        self.agree()
        return answer

    def tell(self, *chapters: list[Edit]) -> list[str]:
        """Make a checkpoint after each chapter, and see all of them again; return their ids."""
        revs = []
        for chapter in chapters:
            self.edit(*chapter)
            revs.append(self.checkpoint())
        self.see_all_again()
        return revs

    def see_all_again(self) -> None:
        """Visit every point of history, newest first, then oldest first; stay at the newest."""
        for rev in [*reversed(self.judge.revs), *self.judge.revs]:
            self.rollback(rev, discard=True)
