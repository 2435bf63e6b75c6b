"""The operators nnembed reads itself, one small function each."""
