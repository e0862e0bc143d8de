"""What Streamlit holds of a user's images, and how to have it let go of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile


def bytes_held() -> int:
    """Bytes of all uploads of all users that Streamlit holds."""
    from streamlit import runtime

    families = runtime.get_instance().uploaded_file_mgr.get_stats()
    return sum(getattr(stat, "byte_length", 0) for stats in families.values() for stat in stats)


def forget_when_closed() -> None:
    """Have Streamlit drop images and results when the page is closed.

    By itself it would keep them for a page that comes back, and then until another one is closed.
    """
    from streamlit import runtime

    if (session := _session()) is not None:
        runtime.get_instance().mark_session_nonresumable(session)


def forget(uploads: Iterable[UploadedFile]) -> None:
    """Drop images and results at once; the settings of the page stay."""
    import streamlit as st
    from streamlit import runtime

    if (session := _session()) is not None:
        files: Any = runtime.get_instance().uploaded_file_mgr
        for upload in uploads:
            files.remove_file(session, upload.file_id)
    st.session_state.example = None
    st.session_state.results = {}
    st.session_state.generation += 1  # another key makes another, empty uploader


def _session() -> str | None:
    """The session of the running script; ``None`` outside a server, as in tests."""
    from streamlit import runtime
    from streamlit.runtime.scriptrunner import get_script_run_ctx

    context = get_script_run_ctx()
    return None if context is None or not runtime.exists() else context.session_id
