"""``python -m runmodel_ext`` is ``runmodel``."""

from runmodel_ext.cli.main import main

if __name__ == "__main__":
    main()
