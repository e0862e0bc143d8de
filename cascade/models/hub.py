"""Models on the Hugging Face Hub, or on a server of the same interface (``HF_ENDPOINT``).

Only safetensors files are fetched; nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from cascade.errors import HubError, MissingExtraError

SCHEME = "hf://"
MODEL_FILE = "cascade.safetensors"
CARD_FILE = "README.md"
_FORM = f"{SCHEME}OWNER/NAME, and if need be @REVISION and /FILE behind it"
_NAME = r"[A-Za-z0-9][\w.-]*"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubAddress:
    """What an address names; without a revision the newest state of the branch ``main``."""

    repository: str
    revision: str | None = None
    file: str = MODEL_FILE

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Read ``hf://owner/name[@revision][/file]``; a ``/`` in a revision is written ``%2F``.

        Raises:
            HubError: the text has another form, or the file is not a safetensors file.
        """
        found = re.fullmatch(rf"{SCHEME}({_NAME}/{_NAME})(?:@([^/@\s]+))?(?:/(.+))?", text)
        if not found:
            raise HubError(f"{text}: expected {_FORM}")
        repository, revision, file = found.groups()
        file = file or MODEL_FILE
        if not file.endswith(".safetensors") or ".." in file.split("/"):
            raise HubError(f"{text}: only .safetensors files are fetched; name one, or none")
        return cls(repository, unquote(revision) if revision else None, file)

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{self.repository}{at}/{self.file}"


def is_hub_address(path: object) -> bool:
    """Whether this names a model on the hub and no file here."""
    return isinstance(path, str) and path.startswith(SCHEME)


def hub_hint(path: str) -> str:
    """The form of an address, if a path that is not there looks like one."""
    looks_so = re.match(r"(hf|https?):|huggingface\.co", path, re.IGNORECASE)
    return f"; models on the hub are {_FORM}" if looks_so else ""


def local_path(path: str | os.PathLike[str]) -> Path:
    """The file behind a path; one on the hub is fetched into the cache, if it is not there.

    Raises:
        HubError: the model cannot be fetched.
        MissingExtraError: huggingface_hub is not installed.
    """
    return fetch(path) if isinstance(path, str) and is_hub_address(path) else Path(path)


def fetch(text: str) -> Path:
    """Fetch a model into the cache of ``huggingface_hub`` (``HF_HOME``).

    Without a network, or with ``HF_HUB_OFFLINE=1``, what was fetched before is used.

    Raises:
        HubError: the address has another form, or there is no such model, token or network.
        MissingExtraError: huggingface_hub is not installed.
    """
    address = HubAddress.parse(text)
    hub = _library()
    place = {"repo_id": address.repository, "filename": address.file, "revision": address.revision}
    if not hub.is_offline_mode() and not isinstance(hub.try_to_load_from_cache(**place), str):
        _require_endpoint(hub, str(address))
    with _translated(str(address)):
        path = Path(hub.hf_hub_download(**place))
    snapshot = path.parents[address.file.count("/")].name
    log.info("model: %s at commit %s", address, snapshot)
    return path


def require_answer(url: str, *, timeout_s: float = 10.0) -> None:
    """Ask whether a server is there, at once: clients repeat in vain for half a minute.

    Raises:
        HubError: it does not answer.
    """
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=timeout_s).close()
    except urllib.error.HTTPError:
        return  # the server is there; whether it has the file is for the download to say
    except (OSError, ValueError) as error:
        raise HubError(f"{urlsplit(url).hostname} does not answer ({error})") from error


def push(
    files: Mapping[str, bytes | Path],
    repository: str,
    *,
    private: bool,
    revision: str | None,
    message: str,
    token: str | None,
) -> str:
    """Send files in one commit; see :meth:`cascade.Cascade.push_to_hub`.

    Returns:
        Its address, with the commit as revision.

    Raises:
        HubError: there is no token, permission or network, or the repository is visible to others
            than was asked for.
        MissingExtraError: huggingface_hub is not installed.
    """
    address = f"{SCHEME}{repository}"
    if not re.fullmatch(rf"{_NAME}/{_NAME}", repository):
        raise HubError(
            f"{repository!r}: expected OWNER/NAME, such as clinic/moles; revision names a branch"
        )
    hub = _library()
    if token is None and hub.get_token() is None:
        raise HubError(
            f"{address}: sending needs a token; log in with hf auth login, or set HF_TOKEN"
        )
    _require_endpoint(hub, address)
    interface = hub.HfApi(token=token, library_name="cascade")
    with _translated(address):
        interface.create_repo(repository, private=private, exist_ok=True)
        if bool(interface.model_info(repository).private) != private:
            now, wanted = ("public", "private") if private else ("private", "public")
            raise HubError(
                f"{address}: is {now}, but was to be {wanted}; nothing was sent. Change "
                f"it in the settings of the repository, or push with private={not private}"
            )
        if revision is not None:
            interface.create_branch(repository, branch=revision, exist_ok=True)
        done = interface.create_commit(
            repository,
            [
                hub.CommitOperationAdd(name, str(data) if isinstance(data, Path) else data)
                for name, data in files.items()
            ],
            commit_message=message,
            revision=revision,
        )
    return f"{address}@{done.oid}"


def card_files(card: Path | None, document: Mapping[str, Any]) -> dict[str, bytes | Path]:
    """The card as ``README.md``, and the pictures that it shows from its own folder.

    Args:
        card: Markdown that ``cascade card`` wrote; by default a short one is made.
        document: the description in the model's file.

    Raises:
        HubError: the card cannot be read.
    """
    if card is None:
        text = _short_card(document)
    else:
        try:
            text = card.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise HubError(f"{card}: the model card cannot be read ({error})") from error
    files: dict[str, bytes | Path] = {}
    for name in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text) if card else ():
        picture = card.parent / name if card else Path(name)
        inside = picture.resolve().is_relative_to(card.parent.resolve()) if card else False
        if inside and picture.is_file() and picture.suffix in (".png", ".jpg"):
            files[name] = picture
    if not text.startswith("---"):
        text = _HEADER + text
    return {CARD_FILE: text.encode(), **files}


_HEADER = """\
---
library_name: cascade
pipeline_tag: image-classification
tags:
- dermoscopy
- image-segmentation
---
"""


def _short_card(document: Mapping[str, Any]) -> str:
    return (
        f"# Cascade\n\n{document['intended_use']}\n\n"
        "The segmenter finds the lesion in a dermoscopic image, its mask cuts a crop, and the "
        "classifier estimates the probability that the lesion is malignant.\n\n"
        "No evaluation was published with this model.\n\n"
        f"SHA-256 of the tensors, verified on load: `{document['tensors_sha256']}`\n"
    )


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants  # submodules are no attributes before they are imported
        import huggingface_hub.errors
    except ImportError as error:
        raise MissingExtraError(
            "models on the hub need huggingface_hub: pip install 'cascade[hub]'"
        ) from error
    return huggingface_hub


def _require_endpoint(hub: Any, what: str) -> None:
    try:
        require_answer(hub.constants.ENDPOINT)
    except HubError as error:
        raise HubError(f"{what}: cannot be reached, {error}; check the network") from error


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn the client's errors into one that says what to do."""
    errors = _library().errors
    reasons: tuple[tuple[type[Exception], str], ...] = (
        (
            errors.GatedRepoError,
            "its owner gives access on request only; ask there, and log in with hf auth login",
        ),
        (
            errors.RepositoryNotFoundError,
            "there is no such repository, or it is private and the token does not open it; check "
            "the name, log in with hf auth login, or set HF_TOKEN",
        ),
        (errors.RevisionNotFoundError, "the repository has no such branch, tag or commit"),
        (
            errors.LocalEntryNotFoundError,
            "cannot be reached, and was not fetched before; check the network, HF_HUB_OFFLINE and "
            "HF_ENDPOINT",
        ),
        (
            errors.EntryNotFoundError,
            f"the repository has no such file; name another one, {SCHEME}OWNER/NAME/FILE",
        ),
        (errors.OfflineModeIsEnabled, "cannot be reached, because HF_HUB_OFFLINE is set"),
    )
    try:
        yield
    except tuple(kind for kind, _ in reasons) as error:
        reason = next(words for kind, words in reasons if isinstance(error, kind))
        raise HubError(f"{what}: {reason}") from error
    except errors.HFValidationError as error:
        raise HubError(f"{what}: {error}") from error
    except (PermissionError, FileNotFoundError, NotADirectoryError, FileExistsError) as error:
        raise HubError(
            f"{what}: the cache cannot be written to ({error}); name another folder in HF_HOME"
        ) from error
    except (
        errors.HTTPError,
        OSError,
        ValueError,
    ) as error:  # refused, no permission, no network, full disk
        first = next((line for line in str(error).splitlines() if line.strip()), type(error))
        raise HubError(f"{what}: {first}") from error
