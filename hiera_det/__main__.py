"""``python -m hiera_det``: see `hiera_det.cli.main`."""

from hiera_det.cli.main import main

if __name__ == "__main__":
    main()
