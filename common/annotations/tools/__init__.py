"""Read the own formats of annotation tools: LabelMe and CVAT."""
