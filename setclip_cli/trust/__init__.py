"""What to believe: which known pairs are wrong, how probable an answer is, and which rows have no partner at all."""
