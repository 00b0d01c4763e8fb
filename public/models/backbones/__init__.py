"""Feature extractors: an image in, one feature map a level out."""
