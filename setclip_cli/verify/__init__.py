"""`setclip verify`: reads every byte of one of our folders and compares it with the hashes on record."""
