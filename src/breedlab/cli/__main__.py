"""`python -m breedlab.cli COMMAND ...`."""

from breedlab.cli import main

if __name__ == "__main__":  # trials in processes of their own import this file again
    main()
