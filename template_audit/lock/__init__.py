"""The drift gate: what was recorded of models and encoders, and what of it is different today."""

from __future__ import annotations

from template_audit.lock.checking import LockReport, check_lock
from template_audit.lock.locking import lock_models

__all__ = ["DEFAULT_FILE", "LockReport", "check_lock", "lock_models"]

DEFAULT_FILE = "template-audit.lock"
