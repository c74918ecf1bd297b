"""Read the own formats of annotation tools: LabelMe, CVAT and VIA."""
