"""The cascade behind HTTP, behind the extra ``serve``.

``settings`` can be imported without that extra, everything else needs it. Nothing here imports
torch: which runtime computes is decided where the model is loaded.
"""
