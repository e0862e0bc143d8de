"""The script that Streamlit runs anew for each click; ``cascade app`` starts it."""

from __future__ import annotations

from cascade.serving.page.layout import show_page

if __name__ == "__main__":
    show_page()
