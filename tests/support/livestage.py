"""One mounted overlay that goes on, and layers that are made of it time and again."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envstack.overlay.listed import Listing, unpack
from envstack.overlay.merged import LayerTree
from envstack.overlay.sameness import go_on
from envstack.overlay.sealing import Ground, open_sealing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from envstack.overlay.sealing import Sealing

_OPTIONS = "redirect_dir=nofollow,index=off,metacopy=off"


@dataclass
class Record:
    """What the upper held when a layer was made of it."""

    packed: dict[bytes, bytes] = field(default_factory=dict)

    def directory(self, path: bytes) -> Listing:
        return unpack(self.packed[path]) if path in self.packed else Listing()

    def go_on(self, sealing: Sealing) -> None:
        """Take over what was found, as the store does."""
        for gone in sealing.found.gone:
            self.packed = {
                path: packed
                for path, packed in self.packed.items()
                if not (path + b"/").startswith(gone + b"/")
            }
        for path, listing in sealing.found.sheets.items():
            self.packed[path] = listing.pack()


class Stage:
    """`merged` is the mounted overlay; `chain` is what the layers made of it lie on, topmost first.

    `between` is done after most was copied, as others do who write meanwhile.
    """

    def __init__(self, place: Path, fill: Callable[[Path], object]) -> None:
        self.place = place
        for name in ("base", "upper", "work", "merged", "shown", "empty"):
            (place / name).mkdir()
            (place / name).chmod(0o755)
        fill(place / "base")
        self.merged = place / "merged"
        self.chain = [place / "base"]
        self.record = Record()
        self.unstable: set[bytes] = set()

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Mount the overlay on the base."""
        lower, upper = self.place / "base", self.place / "upper"
        options = f"{_OPTIONS},lowerdir={lower},upperdir={upper},workdir={self.place / 'work'}"
        with _overlay(options, self.merged):
            yield self.merged

    def seal(
        self,
        *,
        by_record: bool = True,
        frozen: bool = False,
        between: Callable[[], object] = lambda: None,
    ) -> Path:
        """Make a layer, and let the chain have it; return its directory."""
        layer = self.place / f"layer{len(self.chain)}"
        layer.mkdir()
        ground = Ground(
            LayerTree(os.fsencode(self.place / "upper"), marked_by_type=True),
            (LayerTree(os.fsencode(self.place / "base")),),
            tuple(LayerTree(os.fsencode(tree)) for tree in self.chain),
            grain=0,
            tick=go_on,
        )
        before = self.record.directory if by_record else None
        with ExitStack() as stack:
            sealing = open_sealing(stack, ground, before, os.fsencode(layer))
            sealing.copy()
            between()
            sealing.catch_up(frozen=frozen)
            sealing.finish()
        if by_record:
            self.record.go_on(sealing)
        else:
            self.record = Record()
            self.record.go_on(sealing)
        self.unstable = sealing.unstable
        self.chain.insert(0, layer)
        return layer

    @contextmanager
    def shown(self, chain: list[Path]) -> Iterator[Path]:
        """Mount a chain by itself, read-only."""
        lowers = ":".join(str(layer) for layer in [*chain, self.place / "empty"])
        with _overlay(f"ro,{_OPTIONS},lowerdir={lowers}", self.place / "shown"):
            yield self.place / "shown"


@contextmanager
def _overlay(options: str, point: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "overlay", "-o", options, "none", point], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", point], check=True)
