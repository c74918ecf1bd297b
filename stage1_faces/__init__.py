"""Stage 1: finds faces in images. Knows nothing of masks."""

import common  # noqa: F401  # first: it turns off ONNX Runtime's telemetry
