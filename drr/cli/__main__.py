"""`python -m drr.cli` is the `drr` command."""

from drr.cli.main import main

raise SystemExit(main())
