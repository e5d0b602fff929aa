"""Default settings of the losses, which the recipe shows too. This file imports nothing, so neither needs the other."""

CLIP_TEMPERATURE = 0.07
SDD_BANDWIDTH = 0.2  # on unit vectors; anything from 0.05 to 0.4 did as well, smaller adaptive ones collapsed
SELF_SUPERVISED_TEMPERATURE = 0.1
NEIGHBOURHOOD_TEMPERATURE = 0.1
TEACHER_SHARPNESS = 0.05
S_CLIP_REGULARISATION = 0.1
