"""``python -m template_audit``."""

from __future__ import annotations

import sys

from template_audit.cli import main

sys.exit(main())
