"""A cascade as ONNX graphs, for machines without torch."""

from cascade.export.onnx_export import export_onnx

__all__ = ["export_onnx"]
