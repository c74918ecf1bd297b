"""Files that FFmpeg does not take for videos: joined JPEGs and animated pictures."""
