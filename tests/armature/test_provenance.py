"""What provenance says about commit, packages and machine."""

from __future__ import annotations

import platform
import re

from armature.provenance import git_commit, processor, versions


def test_commit_is_forty_hex_digits_or_said_to_be_unknown():
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", git_commit())


def test_versions_name_what_is_not_installed():
    found = versions(("numpy", "no-such-package"))
    assert found["python"] == platform.python_version()
    assert re.match(r"\d+\.\d+", found["numpy"])
    assert found["no-such-package"] == "not installed"


def test_processor_is_named():
    assert processor()
