"""One file from Hugging Face, with its progress reported in place of huggingface_hub's own bars."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.utils.tqdm import tqdm

from mesh.progress import BYTES, Step, track


class HiddenBar(tqdm):
    """A bar of huggingface_hub that is not shown: for what is small."""

    def __init__(self, *_: Any, **options: Any) -> None:
        # What is disabled neither draws nor starts a thread.
        super().__init__(total=options.get("total"), disable=True)  # type: ignore[no-untyped-call]


class _ReportedBar(HiddenBar):
    """Reports what huggingface_hub tells its bar about ``file``."""

    file = ""

    def __init__(self, *_: Any, **options: Any) -> None:
        super().__init__(**options)
        self._stack = ExitStack()
        work = track("downloading", total=self.total, unit=BYTES, file=self.file)
        self._step: Step = self._stack.enter_context(work)
        self._step(int(options.get("initial") or 0))

    def update(self, n: float | None = 1) -> bool | None:
        self._step(int(n or 0))
        return None

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def close(self) -> None:
        if hasattr(self, "_stack"):
            self._stack.close()
        super().close()


def download_file(repository: str, filename: str, *, revision: str) -> None:
    """Download one file into the Hugging Face cache. Raises what hf_hub_download raises."""

    class Bar(_ReportedBar):
        file = filename

    hf_hub_download(repository, filename, revision=revision, tqdm_class=Bar)
