"""The stock cascade, facenet-pytorch's MTCNN, number for number, and the landmarks that it teaches."""
