"""``python -m setclip_cli``, the form that torchrun launches."""

from setclip_cli.cli.program import main

if __name__ == "__main__":
    main()
