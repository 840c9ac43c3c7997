"""Towers as ONNX graphs: exported from torch, optimized, compared with torch, and run by ONNX Runtime."""
