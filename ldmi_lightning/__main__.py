"""``python -m ldmi_lightning`` is the ``ldmi`` command."""

import sys

from ldmi_lightning.commands import main

if __name__ == "__main__":
    sys.exit(main())
