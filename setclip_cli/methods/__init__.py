"""Ways to align two pools of features without training steps, and what is combined with trained heads."""
