"""From pixels to Detections: the only inference path. No PyTorch."""
