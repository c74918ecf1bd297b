"""Boxes, pictures, annotations, files and the command line, for all packages; imports no other package."""
