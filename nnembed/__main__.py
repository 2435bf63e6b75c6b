"""``python -m nnembed``."""

from nnembed.cli import main

if __name__ == "__main__":
    main()
