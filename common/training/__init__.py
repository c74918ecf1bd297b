"""What the trainings of both stages share; unlike the rest of `common`, it needs PyTorch."""
