"""What every package needs: boxes, pictures, annotations, files, the command line. Imports nothing of ours."""
