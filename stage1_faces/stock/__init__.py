"""facenet-pytorch's MTCNN, number for number, and what is read from it."""
