"""What heartcode.service starts: `cd app && python -m heartcode.master`.

This name and that of `heartcode.reload` stand in the unit, which meets versions before and after
its own: they stay (docs/adr/0024-a-folder-for-each-subject.md).
"""

from heartcode.server.arbiter import main

if __name__ == "__main__":
    main()
