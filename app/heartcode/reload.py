"""What `systemctl reload` runs: `MAINPID=... python -m heartcode.reload`; see `master`."""

import sys

from heartcode.server.reload import main

if __name__ == "__main__":
    sys.exit(main())
