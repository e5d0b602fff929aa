"""Samples of pictures: from more than 8 bits to 8, image files to RGB."""
