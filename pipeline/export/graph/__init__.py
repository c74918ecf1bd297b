"""The whole detector as nodes of one ONNX graph: a picture in, faces out."""
